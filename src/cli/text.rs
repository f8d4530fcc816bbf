//! Text for people: 80 columns, and colour where it is wanted.

/// Columns that a line should not go beyond. A word that is longer stands alone.
const COLUMNS: usize = 80;

/// Whether output may hold colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// A terminal whose user did not refuse them.
    Colour,
    /// Anything else.
    Plain,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Style::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Style::Plain => text.to_owned(),
        }
    }

    /// A heading.
    pub(super) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// A risk in brackets, red from important on.
    pub(super) fn severity(self, total_risk: Option<u8>) -> String {
        let code = match total_risk {
            Some(3..) => "1;31",
            Some(2) => "33",
            _ => "36",
        };
        self.paint(code, &format!("[{}]", severity(total_risk)))
    }
}

/// The word for a total risk.
pub(super) fn severity(total_risk: Option<u8>) -> &'static str {
    match total_risk {
        Some(4..) => "critical",
        Some(3) => "important",
        Some(2) => "moderate",
        Some(_) => "low",
        None => "unrated",
    }
}

/// Breaks text between words, each line indented and ended.
pub(super) fn wrap(text: &str, indent: usize) -> String {
    let mut wrapped = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > COLUMNS {
            wrapped.push('\n');
            column = 0;
        }
        if column == 0 {
            wrapped.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += length;
    }
    if column > 0 {
        wrapped.push('\n');
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_between_words() {
        let text = wrap(&"word ".repeat(40), 4);
        assert!(
            text.lines()
                .all(|line| line.len() <= COLUMNS && line.starts_with("    w"))
        );
        assert_eq!(text.split_whitespace().count(), 40);
        assert_eq!(
            wrap(&"x".repeat(100), 2),
            format!("  {}\n", "x".repeat(100))
        );
        assert_eq!(wrap(" ", 2), "");
    }

    #[test]
    fn only_a_terminal_gets_colour() {
        assert_eq!(Style::Plain.severity(Some(2)), "[moderate]");
        assert_eq!(
            Style::Colour.severity(Some(3)),
            "\x1b[1;31m[important]\x1b[0m"
        );
        assert_eq!(severity(None), "unrated");
    }
}
