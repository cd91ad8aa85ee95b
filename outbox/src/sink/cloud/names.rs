//! The names of queues, streams and topics, from the topics of messages.

use super::CloudConfigError;

const TOPIC: &str = "{topic}";

/// A name in which `{topic}` stands for the topic of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Names(String);

impl Names {
    /// `setting` is what it is called in an error.
    pub(in super::super) fn new(setting: &str, template: &str) -> Result<Self, CloudConfigError> {
        if template.is_empty() {
            return Err(CloudConfigError::new(format!("`{setting}` is empty")));
        }
        if template.replace(TOPIC, "").contains(['{', '}']) {
            return Err(CloudConfigError::new(format!(
                "`{setting}` {template:?}: of what stands in braces only {TOPIC} is known"
            )));
        }
        Ok(Self(template.to_owned()))
    }

    pub(in super::super) fn of(&self, topic: &str) -> String {
        self.0.replace(TOPIC, topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_is_put_in_its_place() {
        assert_eq!(Names::new("queue", TOPIC).unwrap().of("orders"), "orders");
        let names = Names::new("queue", "shop-{topic}.fifo").unwrap();
        assert_eq!(names.of("orders"), "shop-orders.fifo");
        assert_eq!(Names::new("queue", "all").unwrap().of("orders"), "all");
    }

    #[test]
    fn other_braces_are_refused() {
        for template in ["", "{key}", "{topic", "a}"] {
            let error = Names::new("queue", template).unwrap_err().to_string();
            assert!(error.contains("`queue`"), "{error}");
        }
    }
}
