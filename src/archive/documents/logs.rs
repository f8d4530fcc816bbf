//! Container logs.
//!
//! Logs may be larger than a document, so they are read line by line and only the lines that
//! some rule looks for are kept.

use std::collections::VecDeque;

use super::field::{hold, of_texts, release};
use super::{Damage, Document, Found, Source};

/// What a line must contain (all of one entry) to be kept. A rule that looks for other lines
/// adds its words here.
const KEPT: &[&[&str]] = &[&["VSphereProblemDetectorController", "failed to sync"]];

/// What etcd says when its disk is slow; such lines are counted, not kept.
const ETCD_SLOW: [&str; 2] = ["took too long", "failed to send out heartbeat on time"];

/// Most lines kept of one log, the last ones.
const LINES: usize = 1000;

/// A log of one container.
#[derive(Debug, Default)]
pub struct PodLog {
    lines: VecDeque<String>,
    /// Lines in which etcd says that its disk is slow.
    pub etcd_slow_lines: u64,
}

impl PodLog {
    /// The kept lines that contain all of the words, in order. Words must come from the list
    /// of what is kept, or nothing is found.
    pub fn lines<'a>(&'a self, words: &'a [&'a str]) -> impl DoubleEndedIterator<Item = &'a str> {
        self.lines
            .iter()
            .map(String::as_str)
            .filter(|line| contains(line, words))
    }
}

fn contains(line: &str, words: &[&str]) -> bool {
    words.iter().all(|word| line.contains(word))
}

impl Document for PodLog {
    fn read(source: Source<'_>) -> Result<PodLog, Damage> {
        let mut lines = VecDeque::<String>::new();
        let mut etcd_slow_lines = 0;
        // Lines may be long, and logs many: their number alone bounds no memory.
        let memory = |line: &str| size_of::<String>() + of_texts([line]);
        source.lines(|line| {
            etcd_slow_lines += u64::from(ETCD_SLOW.iter().any(|words| line.contains(words)));
            if KEPT.iter().any(|words| contains(line, words)) {
                if lines.len() == LINES
                    && let Some(first) = lines.pop_front()
                {
                    release(memory(&first));
                }
                hold(memory(line))?;
                lines.push_back(line.to_owned());
            }
            Ok(())
        })?;
        Ok(PodLog {
            lines,
            etcd_slow_lines,
        })
    }
}

impl<'a> Found<'a, PodLog> {
    /// Namespace and pod, as the path says.
    pub fn namespace_and_pod(self) -> (&'a str, &'a str) {
        let parts: Vec<&str> = self.path().split('/').collect();
        match parts[..] {
            ["config", "pod", namespace, "logs", pod, ..]
            | ["namespaces", namespace, "pods", pod, ..]
            | ["conditional", "namespaces", namespace, "pods", pod, ..] => (namespace, pod),
            _ => ("", ""),
        }
    }

    /// Whether it is of a container's run before the present one.
    pub fn is_previous(self) -> bool {
        self.stem().ends_with("previous.log")
    }
}

#[cfg(test)]
mod tests {
    use super::super::field::within;
    use super::*;

    #[test]
    fn keeps_the_last_lines_that_some_rule_looks_for() {
        let mut text = String::from("something else\n");
        for number in 0..2500 {
            text += &format!("{number} VSphereProblemDetectorController failed to sync\r\nnoise\n");
        }
        text += "last VSphereProblemDetectorController failed to sync";
        let source = Source::new("x.log", text.len() as u64, 10, Box::new(text.as_bytes()));
        let log = PodLog::read(source).unwrap();
        let lines: Vec<_> = log.lines(KEPT[0]).collect();
        assert_eq!(lines.len(), LINES);
        assert_eq!(
            lines[0],
            "1501 VSphereProblemDetectorController failed to sync"
        );
        assert_eq!(
            lines[999],
            "last VSphereProblemDetectorController failed to sync"
        );
    }

    #[test]
    fn a28_lines_that_make_way_for_later_ones_give_their_room_back() {
        let line = "VSphereProblemDetectorController failed to sync\n";
        let text = line.repeat(LINES + 1);
        let read = || PodLog::read(Source::new("x", 1, 10, Box::new(text.as_bytes())));
        let each = size_of::<String>() + line.len() - 1;
        let (log, left) = within(LINES * each, read);
        assert_eq!(log.unwrap().lines.len(), LINES);
        assert_eq!(left, 0);
        let (log, _) = within(LINES * each - 1, read);
        assert!(matches!(log, Err(Damage::Memory)), "{log:?}");
    }

    #[test]
    fn a_line_without_end_costs_no_more_than_its_limit() {
        let text = [
            &b"failed to sync VSphereProblemDetectorController"[..],
            &[b'x'; 300_000],
        ]
        .concat();
        let log = PodLog::read(Source::new("x", 1, 10, Box::new(&text[..]))).unwrap();
        assert_eq!(
            log.lines(KEPT[0]).map(str::len).collect::<Vec<_>>(),
            [64 * 1024]
        );
    }
}
