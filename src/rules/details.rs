//! Parts of details that several rules share, and their bounds.

use serde_json::{Map, Value, json};

use super::Details;
use crate::archive::documents::{Conditions, Found, MachinePool, Operator};

/// Most entries of a list in details.
pub const ENTRIES: usize = 100;
/// Most characters of a message in details.
pub const CHARACTERS: usize = 1000;

/// Writes details: `details! { "name": value, … }`, values being anything that serialises.
macro_rules! details {
    ($($name:literal : $value:expr),* $(,)?) => {
        $crate::rules::Details::from_iter([$(($name.to_owned(), serde_json::json!($value))),*])
    };
}
pub(crate) use details;

/// A message, cut to what details may hold.
pub fn message(text: &str) -> &str {
    text.char_indices()
        .nth(CHARACTERS)
        .map_or(text, |(end, _)| &text[..end])
}

/// A list, cut to what details may hold.
pub fn list<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    items.into_iter().take(ENTRIES).collect()
}

/// A condition of an operator as downstream reads it. Without one, nothing is known.
pub fn condition(operator: &Operator, kind: &str) -> Value {
    condition_of(&operator.status.conditions, kind)
}

/// A condition of anything in the same form.
pub fn condition_of(conditions: &impl Conditions, kind: &str) -> Value {
    let condition = conditions.of_type(kind);
    json!({
        "status": condition.and_then(|condition| condition.holds()),
        "last_trans_time": condition.and_then(|condition| condition.last_transition_time.as_deref()),
        "reason": condition.map_or("", |condition| &condition.reason),
        "message": condition.map_or("", |condition| message(&condition.message)),
    })
}

/// An operator with its conditions and version as downstream reads it.
pub fn operator(operator: Found<'_, Operator>) -> Details {
    let mut details = Map::new();
    details.insert("name".to_owned(), operator.name().into());
    for kind in ["Available", "Degraded", "Progressing", "Upgradeable"] {
        details.insert(kind.to_ascii_lowercase(), condition(&operator, kind));
    }
    details.insert("version".to_owned(), operator.version().into());
    details
}

/// A machine config pool with its conditions as downstream reads it.
pub fn pool(pool: Found<'_, MachinePool>) -> Details {
    let condition = |kind| condition_of(&pool.document().status.conditions, kind);
    details! {
        "name": pool.name(),
        "degraded": condition("Degraded"),
        "node_degraded": condition("NodeDegraded"),
        "render_degraded": condition("RenderDegraded"),
        "updated": condition("Updated"),
        "updating": condition("Updating"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Archive;

    #[test]
    fn cuts_by_characters_and_entries() {
        let text = "ä".repeat(CHARACTERS + 1);
        assert_eq!(message(&text).chars().count(), CHARACTERS);
        assert_eq!(message("short"), "short");
        assert_eq!(list(0..500).len(), ENTRIES);
    }

    #[test]
    fn an_operator_shows_what_is_known_of_its_conditions() {
        let archive = Archive::from_files([(
            "config/clusteroperator/dns.json",
            r#"{"kind": "ClusterOperator", "metadata": {"name": "dns"}, "status": {
                "conditions": [
                    {"type": "Available", "status": "True", "lastTransitionTime": "t", "reason": "AsExpected"},
                    {"type": "Degraded", "status": "Unknown", "message": "m"}],
                "versions": [{"name": "x", "version": "1"}, {"name": "operator", "version": "4.7.16"}]}}"#,
        )]);
        assert_eq!(
            Value::Object(operator(archive.operators()[0])).to_string(),
            json!({
                "name": "dns",
                "available": {"status": true, "last_trans_time": "t", "reason": "AsExpected", "message": ""},
                "degraded": {"status": null, "last_trans_time": null, "reason": "", "message": "m"},
                "progressing": {"status": null, "last_trans_time": null, "reason": "", "message": ""},
                "upgradeable": {"status": null, "last_trans_time": null, "reason": "", "message": ""},
                "version": "4.7.16",
            })
            .to_string()
        );
    }
}
