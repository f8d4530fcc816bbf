//! `${NAME}` and `${NAME:default}` inside the string values of the file.

use super::env::Env;

/// Replaces every `${NAME}` of `text` once, from left to right; what comes in is not looked at
/// again. `$${` gives `${`; any other `$` stands for itself.
///
/// # Errors
/// A sentence that names the variable, never its value.
pub(super) fn substitute(text: &str, env: &Env) -> Result<String, String> {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        done.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(behind) = rest.strip_prefix("$${") {
            done.push_str("${");
            rest = behind;
        } else if let Some(inside) = rest.strip_prefix("${") {
            let end = inside
                .find('}')
                .ok_or("`${` has no `}`; write `$${` for the two characters themselves")?;
            done.push_str(&value(&inside[..end], env)?);
            rest = &inside[end + 1..];
        } else {
            done.push('$');
            rest = &rest[1..];
        }
    }
    done.push_str(rest);
    Ok(done)
}

fn value(inside: &str, env: &Env) -> Result<String, String> {
    let (name, default) = match inside.split_once(':') {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let is_name = !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        return Err(format!("`${{{name}}}` is no name of a variable"));
    }
    match (env.text(name)?.filter(|text| !text.is_empty()), default) {
        (Some(text), _) => Ok(text.to_owned()),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "variable {name} is not set or empty; `${{{name}:}}` allows that"
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn env() -> Env {
        Env::of([("HOST", "kafka"), ("EMPTY", ""), ("TRICK", "${HOST}")])
    }

    #[test]
    fn values_defaults_and_escapes() {
        for (text, done) in [
            ("plain", "plain"),
            ("${HOST}:9092", "kafka:9092"),
            ("${HOST:other}", "kafka"),
            ("${NONE:localhost:9092}", "localhost:9092"),
            ("${EMPTY:default}", "default"),
            ("${NONE:}", ""),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("a$ $b $", "a$ $b $"),
            ("${TRICK}", "${HOST}"),
            ("${HOST}${HOST}", "kafkakafka"),
        ] {
            assert_eq!(substitute(text, &env()).as_deref(), Ok(done), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_an_error_that_names_it() {
        for (text, word) in [
            ("${NONE}", "NONE"),
            ("${EMPTY}", "EMPTY"),
            ("${HOST", "no `}`"),
            ("${}", "no name"),
            ("${1A}", "no name"),
            ("${A B:c}", "no name"),
        ] {
            let why = substitute(text, &env()).expect_err(text);
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    proptest! {
        #[test]
        fn text_without_dollars_stays(text in "[^$]*") {
            prop_assert_eq!(substitute(&text, &env()), Ok(text));
        }

        #[test]
        fn an_escaped_text_comes_out_as_it_was(text in "[${}A-Z:]{0,12}") {
            let escaped = text.replace("${", "$${");
            prop_assert_eq!(substitute(&escaped, &env()), Ok(text));
        }
    }
}
