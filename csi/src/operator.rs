//! What the operator says of the `volumeAttributes` of all pods: defaults where a pod is silent, and
//! what no pod may say otherwise.

use std::{collections::BTreeMap, str::FromStr};

use vsecm_node_agent_api::attributes::{self, AttributeError, Context};

const ITEMS: &str = "items";

/// The operator's word.
#[derive(Clone, Debug, Default)]
pub struct Operator {
    /// Hold where a pod says nothing.
    pub defaults: Rules,
    /// Hold always.
    pub enforced: Rules,
}

/// Attributes with possible values, given as lines `attribute=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(BTreeMap<String, String>);

/// Why a text is no [`Rules`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleError {
    /// A line without `=`.
    #[error("{0:?} is not attribute=value, one a line")]
    Shape(String),
    /// An attribute that is given twice.
    #[error("the attribute {0} is given twice")]
    Twice(String),
    /// An attribute that depends on what is in one pod's secret.
    #[error("the attribute {0} is each pod's own: it names the keys of one secret")]
    PerPod(&'static str),
    /// An attribute or a value that does not exist.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
}

/// A pod asks for something else than the operator has set.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the operator of this cluster has set the volume attribute {attribute} to {value:?} for all \
     pods: take it out of volumeAttributes, or give that value"
)]
pub struct Contradiction {
    attribute: String,
    value: String,
}

impl FromStr for Rules {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let mut rules = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let rule = line.split_once('=').ok_or_else(|| RuleError::Shape(line.to_owned()))?;
            let (attribute, value) = (rule.0.to_owned(), rule.1.to_owned());
            if attribute.starts_with(attributes::KUBELETS) {
                return Err(AttributeError::Unknown(attribute).into());
            }
            if attribute == ITEMS {
                return Err(RuleError::PerPod(ITEMS));
            }
            meaning(&attribute, &value)?;
            if rules.insert(attribute, value).is_some() {
                return Err(RuleError::Twice(rule.0.to_owned()));
            }
        }
        Ok(Self(rules))
    }
}

impl Operator {
    /// What a pod asked for, made complete.
    ///
    /// # Errors
    /// [`Contradiction`], also for a value that is not possible at all.
    pub fn complete(&self, mut context: Context) -> Result<Context, Contradiction> {
        for (attribute, value) in &self.enforced.0 {
            let asked = context.insert(attribute.clone(), value.clone());
            // "444" is "0444"
            let agrees = |asked| meaning(attribute, asked) == meaning(attribute, value);
            if !asked.as_deref().is_none_or(agrees) {
                return Err(Contradiction { attribute: attribute.clone(), value: value.clone() });
            }
        }
        for (attribute, value) in &self.defaults.0 {
            context.entry(attribute.clone()).or_insert_with(|| value.clone());
        }
        Ok(context)
    }
}

fn meaning(attribute: &str, value: &str) -> Result<impl PartialEq + use<>, AttributeError> {
    attributes::options(&Context::from([(attribute.to_owned(), value.to_owned())]), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(operator: &Operator, asked: &[(&str, &str)]) -> Result<Context, Contradiction> {
        operator.complete(asked.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_default_holds_where_the_pod_says_nothing() {
        let defaults = "mode=0400\n\n  onWithdraw=revoke\n".parse().unwrap();
        let operator = Operator { defaults, ..Operator::default() };
        let context = completed(&operator, &[("onWithdraw", "keep")]).unwrap();
        assert_eq!((context["mode"].as_str(), context["onWithdraw"].as_str()), ("0400", "keep"));
        assert_eq!(context.len(), 2);
    }

    #[test]
    fn what_is_enforced_holds_for_the_silent_and_refuses_who_says_otherwise() {
        let operator = Operator {
            enforced: "mode=0440\noptional=false".parse().unwrap(),
            defaults: "mode=0400".parse().unwrap(),
        };
        for asked in [&[][..], &[("mode", "0440")], &[("mode", "440"), ("optional", "false")]] {
            let context = completed(&operator, asked).unwrap();
            assert_eq!((context["mode"].as_str(), context["optional"].as_str()), ("0440", "false"));
        }
        for asked in ["0444", "canary"] {
            let text = completed(&operator, &[("mode", asked)]).unwrap_err().to_string();
            assert!(text.contains("attribute mode to \"0440\""), "{text}");
            assert!(!text.contains(asked), "{text}");
        }
    }

    #[test]
    fn rules_that_no_pod_could_follow_are_refused() {
        for (text, said) in [
            ("mode", "\"mode\" is not attribute=value, one a line"),
            (
                "mode=0999",
                "the volume attribute mode cannot be used: a mode is three or four octal",
            ),
            ("mode=0644", "the volume attribute mode cannot be used: a mode has no write bits"),
            ("items=a=b", "the attribute items is each pod's own"),
            ("mode=0400\nmode=0440", "the attribute mode is given twice"),
            ("audits=opens", "volumeAttributes has \"audits\""),
            ("=x", "volumeAttributes has \"\""),
            ("csi.storage.k8s.io/pod.uid=1", "volumeAttributes has \"csi.storage"),
        ] {
            let error = text.parse::<Rules>().unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
        assert_eq!("\n \n".parse(), Ok(Rules::default()));
    }
}
