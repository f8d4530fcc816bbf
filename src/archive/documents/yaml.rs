//! One scalar out of a YAML text, by its path of keys.
//!
//! Two documents are YAML: install-config and an old form of the monitoring configuration, both
//! written by Go programs as block mappings. For two look-ups a YAML parser with its aliases
//! and tags would be more attack surface than use. What is not a plain block mapping is not
//! found.

/// Most lines that are looked at: such a document has some hundreds.
const LINES: usize = 100_000;

/// What is found at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node<'a> {
    /// A scalar, or a flow collection as its text.
    Scalar(&'a str),
    /// A nested block.
    Block,
}

/// Looks up a path of mapping keys. A null value is not there.
pub fn lookup<'a>(text: &'a str, path: &[&str]) -> Option<Node<'a>> {
    // Lines that count: their indentation and what is left of them.
    let lines: Vec<(usize, &str)> = text
        .lines()
        .map(|line| {
            let content = line.trim_start_matches(' ');
            (line.len() - content.len(), content.trim_end())
        })
        .filter(|(_, content)| {
            !content.is_empty() && !content.starts_with(['#', '%']) && *content != "---"
        })
        .take(LINES)
        .collect();

    let (mut from, mut level) = (0, None);
    for (depth, key) in path.iter().enumerate() {
        let rest = lines.get(from..)?;
        // The first line of a block says how deep its keys lie.
        let indentation = rest.first()?.0;
        if level.is_some_and(|outer| indentation <= outer) {
            return None;
        }
        let (offset, value) = rest
            .iter()
            .take_while(|(indent, _)| *indent >= indentation)
            .enumerate()
            .filter(|(_, (indent, _))| *indent == indentation)
            .find_map(|(offset, (_, content))| Some((offset, value_of(content, key)?)))?;
        let nested = lines
            .get(from + offset + 1)
            .is_some_and(|(indent, content)| {
                *indent > indentation || (*indent == indentation && content.starts_with("- "))
            });
        if depth + 1 == path.len() {
            return match value {
                "" if nested => Some(Node::Block),
                "" | "null" | "Null" | "NULL" | "~" => None,
                value => Some(Node::Scalar(value)),
            };
        }
        if !value.is_empty() {
            return None;
        }
        from += offset + 1;
        level = Some(indentation);
    }
    None
}

/// The value behind `key:`, without comment and quotes.
fn value_of<'a>(content: &'a str, key: &str) -> Option<&'a str> {
    let (name, value) = content.split_once(':')?;
    if unquoted(name.trim_end()) != key || !(value.is_empty() || value.starts_with(' ')) {
        return None;
    }
    let value = value.trim();
    let value = if value.starts_with('#') {
        ""
    } else {
        value.split_once(" #").map_or(value, |(value, _)| value)
    };
    Some(unquoted(value.trim_end()))
}

fn unquoted(text: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INSTALL_CONFIG: &str = "apiVersion: v1\n\
        compute:\n- name: worker\n  replicas: 3\n\
        controlPlane:\n  # how many\n  name: 'master'\n  platform: {}\n  replicas: 5 # five\n\
        metadata:\n  creationTimestamp: null\n  name: \"dev\"\nempty:\nlast: x\n";

    #[test]
    fn finds_scalars_by_their_path() {
        let scalar = |path: &[&str]| match lookup(INSTALL_CONFIG, path) {
            Some(Node::Scalar(text)) => Some(text),
            _ => None,
        };
        assert_eq!(scalar(&["controlPlane", "replicas"]), Some("5"));
        assert_eq!(scalar(&["controlPlane", "name"]), Some("master"));
        assert_eq!(scalar(&["metadata", "name"]), Some("dev"));
        assert_eq!(scalar(&["last"]), Some("x"));
        assert_eq!(lookup(INSTALL_CONFIG, &["controlPlane"]), Some(Node::Block));
    }

    #[test]
    fn what_is_not_there_or_null_is_none() {
        for path in [
            &["replicas"][..],
            &["compute", "replicas"],
            &["metadata", "replicas"],
            &["metadata", "creationTimestamp"],
            &["empty"],
            &["empty", "last"],
            &["apiVersion", "x"],
            &[],
        ] {
            assert_eq!(lookup(INSTALL_CONFIG, path), None, "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ \\-a:#\"\n]{0,80}") {
            let _ = lookup(&text, &["a", "aa"]);
        }
    }
}
