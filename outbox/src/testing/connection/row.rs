//! A row of the table `outbox`, on any backend.

use diesel::QueryableByName;

use crate::Message;
use crate::store::MessageRow;

#[derive(Debug, QueryableByName)]
pub struct Row {
    #[diesel(embed)]
    row: MessageRow,
}

/// A message that waits.
#[derive(Debug)]
pub struct Waiting {
    pub(crate) id: i64,
    pub(crate) message: Message,
    /// Why it can never be sent, if plain SQL has written it.
    pub(crate) defect: Option<String>,
}

impl From<Row> for Waiting {
    fn from(Row { row }: Row) -> Self {
        let id = row.id;
        let (message, defect) = row.columns().message();
        Self {
            id,
            message,
            defect,
        }
    }
}

/// The messages, if all of them can be sent.
#[track_caller]
pub(super) fn sound(waiting: Vec<Waiting>) -> Vec<Message> {
    let message = |waiting: Waiting| match waiting.defect {
        None => waiting.message,
        Some(defect) => panic!(
            "message {} in the table `outbox` can never be sent: {defect}",
            waiting.id
        ),
    };
    waiting.into_iter().map(message).collect()
}
