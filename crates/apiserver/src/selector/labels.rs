use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::{FieldError, Status, names};

/// Which labels an object must have. The default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Absent,
    Exists,
    Greater,
    In,
    Less,
    NotIn,
}

impl LabelSelector {
    /// Whether it matches everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether labels (`metadata.labels`; null if there are none) match.
    #[must_use]
    pub fn matches(&self, labels: &Value) -> bool {
        let empty = Map::new();
        let labels = labels.as_object().unwrap_or(&empty);
        self.requirements.iter().all(|one| one.matches(labels.get(&one.key).and_then(Value::as_str)))
    }

    /// The selector that an object holds: `meta/v1.LabelSelector` with matchLabels and matchExpressions.
    ///
    /// # Errors
    /// An operator that there is not, a key or value that no label has.
    pub fn from_value(selector: &Value) -> Result<Self, Status> {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement { key: key.clone(), operator: Operator::In, values: vec![value] });
        }
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let operator = match expression["operator"].as_str() {
                Some("In") => Operator::In,
                Some("NotIn") => Operator::NotIn,
                Some("Exists") => Operator::Exists,
                Some("DoesNotExist") => Operator::Absent,
                other => {
                    let other = crate::status::quote(other.unwrap_or_default());
                    return Err(Status::bad_request(format!(
                        "{other} is not a valid label selector operator"
                    )));
                }
            };
            let values = expression["values"].as_array().into_iter().flatten();
            requirements.push(Requirement {
                key: expression["key"].as_str().unwrap_or_default().to_owned(),
                operator,
                values: values.filter_map(Value::as_str).map(str::to_owned).collect(),
            });
        }
        requirements.iter().try_for_each(Requirement::check).map_err(Status::bad_request)?;
        Ok(Self { requirements })
    }
}

impl FromStr for LabelSelector {
    type Err = Status;

    /// From the text of a request: `app=web,tier notin (x,y),!old`.
    fn from_str(text: &str) -> Result<Self, Status> {
        let mut parser = Parser { tokens: scan(text), position: 0 };
        parser.parse().map(|requirements| Self { requirements }).map_err(Status::bad_request)
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|one| one == value);
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = || self.values.first().and_then(|one| number(one));
        match self.operator {
            Operator::Absent => value.is_none(),
            Operator::Exists => value.is_some(),
            Operator::Greater => {
                value.and_then(number).zip(bound()).is_some_and(|(value, bound)| value > bound)
            }
            Operator::In => value.is_some_and(among),
            Operator::Less => value.and_then(number).zip(bound()).is_some_and(|(value, bound)| value < bound),
            Operator::NotIn => !value.is_some_and(among),
        }
    }

    /// What Kubernetes' `labels.NewRequirement` checks.
    fn check(&self) -> Result<(), String> {
        let mut errors = Vec::new();
        let invalid =
            |path: String, value: Value, detail: &str| FieldError::invalid(path, value, detail).to_string();
        let wrong = names::qualified(&self.key);
        if !wrong.is_empty() {
            errors.push(invalid("key".to_owned(), self.key.clone().into(), &wrong.join("; ")));
        }
        match self.operator {
            Operator::In | Operator::NotIn if self.values.is_empty() => {
                let detail = "for 'in', 'notin' operators, values set can't be empty";
                errors.push(invalid("values".to_owned(), Value::Array(Vec::new()), detail));
            }
            Operator::Exists | Operator::Absent if !self.values.is_empty() => {
                let detail = "values set must be empty for exists and does not exist";
                errors.push(invalid("values".to_owned(), self.values.clone().into(), detail));
            }
            _ => {}
        }
        for (index, value) in self.values.iter().enumerate() {
            let path = format!("values[{index}]");
            let number = matches!(self.operator, Operator::Greater | Operator::Less);
            if number && value.parse::<i64>().is_err() {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(invalid(path.clone(), value.clone().into(), detail));
            }
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                errors.push(invalid(
                    format!("{path}[{}]", self.key),
                    value.clone().into(),
                    &wrong.join("; "),
                ));
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    End,
    Symbol(&'static str),
    Unknown(String),
    Word(String),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End => Ok(()),
            Self::Symbol(text) => f.write_str(text),
            Self::Unknown(text) => write!(f, "error expected: keyword found '{text}'"),
            Self::Word(text) => f.write_str(text),
        }
    }
}

/// Longest first: `==` before `=`.
const SYMBOLS: &[&str] = &["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn scan(text: &str) -> Vec<Token> {
    let special = |c: char| "=!(),><".contains(c);
    let blank = |c: char| " \t\r\n".contains(c);
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(blank);
        let Some(first) = rest.chars().next() else { break };
        let token = if special(first) {
            SYMBOLS
                .iter()
                .find(|symbol| rest.starts_with(**symbol))
                .map(|symbol| (Token::Symbol(symbol), symbol.len()))
        } else {
            let end = rest.find(|c| special(c) || blank(c)).unwrap_or(rest.len());
            Some((Token::Word(rest[..end].to_owned()), end))
        };
        let (token, length) = token.unwrap_or_else(|| (Token::Unknown(rest.to_owned()), rest.len()));
        tokens.push(token);
        rest = &rest[length..];
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.position).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.position += 1;
        token
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Symbol("!") => {}
                other => return Err(format!("found '{other}', expected: !, identifier, or 'end of string'")),
            }
            let requirement =
                self.requirement().map_err(|error| format!("unable to parse requirement: {error}"))?;
            requirements.push(requirement);
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => match self.peek() {
                    Token::Word(_) | Token::Symbol("!") => {}
                    other => return Err(format!("found '{other}', expected: identifier after ','")),
                },
                other => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = *self.peek() == Token::Symbol("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{other}', expected: identifier")),
        };
        let wrong = names::qualified(&key);
        if !wrong.is_empty() {
            let error = FieldError::invalid("<nil>", key, wrong.join("; "));
            return Err(error.to_string());
        }
        let alone = matches!(self.peek(), Token::End | Token::Symbol(","));
        let (operator, values) = if absent {
            (Operator::Absent, Vec::new())
        } else if alone {
            (Operator::Exists, Vec::new())
        } else {
            self.operation()?
        };
        let requirement = Requirement { key, operator, values };
        requirement.check()?;
        Ok(requirement)
    }

    fn operation(&mut self) -> Result<(Operator, Vec<String>), String> {
        match self.next() {
            Token::Symbol("=" | "==") => Ok((Operator::In, vec![self.exact()?])),
            Token::Symbol("!=") => Ok((Operator::NotIn, vec![self.exact()?])),
            Token::Symbol(">") => Ok((Operator::Greater, vec![self.exact()?])),
            Token::Symbol("<") => Ok((Operator::Less, vec![self.exact()?])),
            Token::Word(word) if word == "in" => Ok((Operator::In, self.set()?)),
            Token::Word(word) if word == "notin" => Ok((Operator::NotIn, self.set()?)),
            other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn exact(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            _ => match self.next() {
                Token::Word(word) => Ok(word),
                other => Err(format!("found '{other}', expected: identifier")),
            },
        }
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(format!("found '{other}' expected: '('")),
        }
        let mut values = Vec::new();
        let mut word = None;
        loop {
            match self.next() {
                Token::Word(value) if word.is_none() => word = Some(value),
                Token::Symbol(",") => values.push(word.take().unwrap_or_default()),
                Token::Symbol(")") => {
                    values.push(word.take().unwrap_or_default());
                    values.sort();
                    values.dedup();
                    return Ok(values);
                }
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(selector: &str, labels: &Value) -> bool {
        selector.parse::<LabelSelector>().unwrap().matches(labels)
    }

    #[test]
    fn selectors_match_as_in_kubernetes() {
        let labels = json!({"app": "web", "tier": "", "n": "5"});
        for yes in [
            "",
            "app",
            "app=web",
            "app==web",
            "app!=x",
            "app in (a,web)",
            "app notin (a)",
            "missing notin (a)",
            "!missing",
            "missing!=x",
            "tier=",
            "tier in ()",
            "n>4",
            "n<6",
            " app = web , tier ",
            "app in (web,), n",
            "missing!=",
        ] {
            assert!(matches(yes, &labels), "{yes}");
        }
        for no in ["missing", "app=x", "!app", "app in (a,b)", "app notin (web)", "n>5", "missing=", "app>1"]
        {
            assert!(!matches(no, &labels), "{no}");
        }
        assert!(matches("!a", &Value::Null));
    }

    #[test]
    fn what_cannot_be_parsed_is_told_as_kubernetes_tells_it() {
        let error = |text: &str| text.parse::<LabelSelector>().unwrap_err().message;
        assert_eq!(error("a,"), "found '', expected: identifier after ','");
        assert_eq!(
            error("a b"),
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"
        );
        assert_eq!(error("a in b"), "unable to parse requirement: found 'b' expected: '('");
        assert_eq!(error(")"), "found ')', expected: !, identifier, or 'end of string'");
        assert!(error("a=$").contains("Invalid value: \"$\""), "{}", error("a=$"));
        assert!(
            error("!a=b").starts_with("found '=', expected: ',' or 'end of string'"),
            "{}",
            error("!a=b")
        );
    }

    #[test]
    fn the_selector_of_an_object_is_understood() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]});
        let selector = LabelSelector::from_value(&selector).unwrap();
        assert!(selector.matches(&json!({"a": "b", "c": "e"})));
        assert!(!selector.matches(&json!({"a": "b"})));
        assert!(
            LabelSelector::from_value(&json!({"matchExpressions": [{"key": "c", "operator": "in"}]}))
                .is_err()
        );
    }
}
