//! Pausing topics, or everything.

use tokio_postgres::types::{ToSql, Type};

use super::{Note, Operator};
use crate::store::{ALL_TOPICS, Paused, StoreError, paused};

impl Operator {
    /// Lets runners send no more messages of this topic, or none at all, until it is resumed. What is in
    /// flight still arrives; runners hear of it within about a second. Writers are not concerned: their
    /// messages wait.
    ///
    /// Returns whether it was not paused already.
    ///
    /// # Errors
    ///
    /// When it is no topic name, or when the database can't be reached, or can't be used as it is.
    pub async fn pause(&self, topic: Option<&str>, note: &Note) -> Result<bool, StoreError> {
        self.toggle(
            "pause",
            "INSERT INTO outbox_paused (topic) VALUES ($1) ON CONFLICT DO NOTHING RETURNING topic",
            topic,
            note,
        )
        .await
    }

    /// Ends a pause. To resume everything ends the pause of everything: topics that were paused by their
    /// names stay so.
    ///
    /// Returns whether it was paused.
    ///
    /// # Errors
    ///
    /// When it is no topic name, or when the database can't be reached, or can't be used as it is.
    pub async fn resume(&self, topic: Option<&str>, note: &Note) -> Result<bool, StoreError> {
        self.toggle(
            "resume",
            "DELETE FROM outbox_paused WHERE topic = $1 RETURNING topic",
            topic,
            note,
        )
        .await
    }

    /// What is paused.
    ///
    /// # Errors
    ///
    /// When the database can't be reached, or can't be used as it is.
    pub async fn paused(&self) -> Result<Paused, StoreError> {
        self.act(async |client| paused(client).await).await
    }

    async fn toggle(
        &self,
        action: &str,
        change: &str,
        topic: Option<&str>,
        note: &Note,
    ) -> Result<bool, StoreError> {
        if let Some(topic) = topic {
            crate::topic::check(topic).map_err(|reason| {
                StoreError::fatal(format!("{topic:?} is no topic name: {reason}"))
            })?;
        }
        let query = format!(
            "WITH changed AS ({change}), audited AS ( \
                INSERT INTO outbox_audit (action, operator, reason, topic) \
                SELECT $2, $3, $4, c.topic FROM changed AS c \
             ) SELECT count(*) FROM changed"
        );
        let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
            (&topic.unwrap_or(ALL_TOPICS), Type::TEXT),
            (&action, Type::TEXT),
            (&note.operator, Type::TEXT),
            (&note.reason, Type::TEXT),
        ];
        let changed = self
            .act(async |client| {
                let row = client.query_typed_one(&query, &parameters).await?;
                row.try_get::<_, i64>(0)
            })
            .await?;
        Ok(changed > 0)
    }
}
