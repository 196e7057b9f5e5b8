//! Selectors over labels and fields, as objects write them.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Which labels. Empty selects everything.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LabelSelector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Requirement>,
}

impl LabelSelector {
    /// Whether these labels are selected.
    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|one| one.matches(labels.get(&one.key).map(String::as_str)))
    }
}

/// Which machines: those that satisfy one of the terms.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSelector {
    node_selector_terms: Vec<NodeSelectorTerm>,
}

impl NodeSelector {
    /// Whether the machine of this name and these labels is selected.
    pub(crate) fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.node_selector_terms.iter().any(|term| term.matches(name, labels))
    }
}

/// What a machine must satisfy. A term that says nothing selects none.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSelectorTerm {
    match_expressions: Vec<Requirement>,
    match_fields: Vec<Requirement>,
}

impl NodeSelectorTerm {
    /// Whether the machine of this name and these labels satisfies it.
    pub(crate) fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let says = !self.match_expressions.is_empty() || !self.match_fields.is_empty();
        let field = |one: &Requirement| one.key == "metadata.name" && one.matches(Some(name));
        says && self.match_expressions.iter().all(|one| one.matches(labels.get(&one.key).map(String::as_str)))
            && self.match_fields.iter().all(field)
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Requirement {
    key: String,
    operator: String,
    values: Vec<String>,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|other| other == value);
        let numbers = || Some((value?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator.as_str() {
            "In" => value.is_some_and(among),
            "NotIn" => !value.is_some_and(among),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
            "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn label_selectors() {
        let has = labels(&[("app", "web"), ("tier", "1")]);
        let table = [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "web", "tier": "2"}}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "web"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}), false),
            (json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["web"]}]}), true),
            (json!({"matchExpressions": [{"key": "none", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}), true),
            (
                json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "app", "operator": "Exists"}]}),
                true,
            ),
        ];
        for (selector, expected) in table {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(parsed.matches(&has), expected, "{selector}");
        }
    }

    #[test]
    fn node_selectors() {
        let has = labels(&[("disk", "ssd"), ("cores", "8")]);
        let one = |term: serde_json::Value| json!({"nodeSelectorTerms": [term]});
        let table = [
            (json!({"nodeSelectorTerms": []}), false),
            (one(json!({})), false),
            (
                one(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})),
                true,
            ),
            (
                one(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]})),
                false,
            ),
            (one(json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]})), true),
            (one(json!({"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["8"]}]})), false),
            (one(json!({"matchExpressions": [{"key": "disk", "operator": "Gt", "values": ["8"]}]})), false),
            (
                json!({"nodeSelectorTerms": [{}, {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}),
                true,
            ),
        ];
        for (selector, expected) in table {
            let parsed: NodeSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(parsed.matches("n1", &has), expected, "{selector}");
        }
    }
}
