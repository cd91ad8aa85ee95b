//! Names at a broker, made from a message.

use super::super::SinkConfigError;
use crate::Message;

/// What [`Template`]s can take from a message.
const PLACES: [(&str, Place); 3] = [
    ("topic", Place::Topic),
    ("key", Place::Key),
    ("event_type", Place::EventType),
];

/// A text with places in braces, such as `{topic}.{key}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Topic,
    Key,
    EventType,
}

impl Template {
    /// `what` it is for, to be named in errors.
    pub(in super::super) fn parse(what: &str, text: &str) -> Result<Self, SinkConfigError> {
        let wrong = |reason: String| SinkConfigError::new(format!("the {what} {text:?}: {reason}"));
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if before.contains('}') {
                return Err(wrong("a brace is closed that was not opened".into()));
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let Some((name, after)) = after.split_once('}') else {
                return Err(wrong("a brace is not closed".into()));
            };
            let Some((_, place)) = PLACES.iter().find(|(known, _)| *known == name) else {
                return Err(wrong(format!(
                    "nothing is called {{{name}}}; there are {{topic}}, {{key}} and {{event_type}}"
                )));
            };
            parts.push(Part::Place(*place));
            rest = after;
        }
        if rest.contains('}') {
            return Err(wrong("a brace is closed that was not opened".into()));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// One that takes the topic alone: for names of which the sink keeps something each. Topics are few.
    #[cfg(any(
        test,
        feature = "kinesis",
        feature = "pubsub",
        feature = "rabbitmq",
        feature = "sqs"
    ))]
    pub(in super::super) fn of_topic(what: &str, text: &str) -> Result<Self, SinkConfigError> {
        let template = Self::parse(what, text)?;
        let of_message = [Place::Key, Place::EventType].map(Part::Place);
        if template.parts.iter().any(|part| of_message.contains(part)) {
            return Err(SinkConfigError::new(format!(
                "the {what} {text:?} can be named after {{topic}} alone"
            )));
        }
        Ok(template)
    }

    /// The name for a message, or why there is none.
    pub(in super::super) fn fill(&self, message: &Message) -> Result<String, String> {
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Place(Place::Topic) => name.push_str(message.topic()),
                Part::Place(Place::Key) => {
                    let key = message.key().ok_or_else(|| self.lacks("a key"))?;
                    let key = std::str::from_utf8(key)
                        .map_err(|_| self.lacks("a key that is text (UTF-8)"))?;
                    name.push_str(key);
                }
                Part::Place(Place::EventType) => {
                    let event_type = message.event_type();
                    name.push_str(event_type.ok_or_else(|| self.lacks("an event type"))?);
                }
            }
        }
        Ok(name)
    }

    fn lacks(&self, what: &str) -> String {
        format!(
            "the template {:?} needs {what}, which the message has not",
            self.text
        )
    }

    /// The name of all messages, if it is the same.
    #[cfg(any(test, feature = "rabbitmq"))]
    pub(in super::super) fn constant(&self) -> Option<&str> {
        match self.parts.iter().any(|part| matches!(part, Part::Place(_))) {
            true => None,
            false => Some(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Template, String> {
        Template::parse("routing key", text).map_err(|error| error.to_string())
    }

    #[test]
    fn places_are_filled() {
        let message = Message::new("orders")
            .with_key("17")
            .with_event_type("placed");
        for (template, name) in [
            ("{topic}", "orders"),
            ("shop.{topic}.{key}", "shop.orders.17"),
            ("{event_type}{key}!", "placed17!"),
            ("fixed", "fixed"),
            ("", ""),
        ] {
            let filled = parse(template).unwrap().fill(&message);
            assert_eq!(filled.as_deref(), Ok(name));
        }
    }

    #[test]
    fn what_a_message_lacks_is_named() {
        let template = parse("{topic}.{key}").unwrap();
        let without = template.fill(&Message::new("t")).unwrap_err();
        assert!(
            without.contains("{topic}.{key}") && without.contains("a key"),
            "{without}"
        );
        let bytes = template
            .fill(&Message::new("t").with_key([0xff]))
            .unwrap_err();
        assert!(bytes.contains("text (UTF-8)"), "{bytes}");
        let event_type = parse("{event_type}").unwrap().fill(&Message::new("t"));
        assert!(event_type.unwrap_err().contains("an event type"));
    }

    #[test]
    fn a_wrong_template_is_refused() {
        for (template, reason) in [
            ("{topik}", "{topik}"),
            ("{topic", "not closed"),
            ("topic}", "not opened"),
            ("a}{key}", "not opened"),
        ] {
            let error = parse(template).unwrap_err();
            assert!(
                error.contains(reason) && error.contains("routing key"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_name_can_be_restricted_to_the_topic() {
        assert!(Template::of_topic("queue", "shop-{topic}.fifo").is_ok());
        for template in ["{topic}-{key}", "{event_type}"] {
            let error = Template::of_topic("queue", template).unwrap_err();
            assert!(error.to_string().contains("{topic} alone"), "{error}");
        }
    }

    #[test]
    fn what_is_the_same_for_all_messages_is_known() {
        assert_eq!(parse("events").unwrap().constant(), Some("events"));
        assert_eq!(parse("{topic}").unwrap().constant(), None);
    }

    proptest! {
        /// A place is filled with what stands for it, wherever it stands; other braces are refused.
        #[test]
        fn any_text_is_filled_or_refused(
            text in r"([a-z.]{0,3}|[{}]|\{(topic|key|event_type|t)\}|.){0,6}",
            topic in "[a-z]{1,5}", key in "[a-z]{0,5}", event_type in "[a-z]{0,5}"
        ) {
            let message = Message::new(&*topic).with_key(&*key).with_event_type(&*event_type);
            let filled = text
                .replace("{topic}", &topic)
                .replace("{key}", &key)
                .replace("{event_type}", &event_type);
            match parse(&text) {
                Ok(template) => prop_assert_eq!(template.fill(&message), Ok(filled)),
                Err(error) => {
                    let has_braces = filled.contains(['{', '}']);
                    prop_assert!(has_braces, "{}", error);
                }
            }
        }
    }
}
