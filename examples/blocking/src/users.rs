//! The users, and what other systems get to know of them.

use diesel::prelude::*;
use outbox::OutboxEvent;
use serde::{Deserialize, Serialize};

diesel::table! {
    users (email) {
        email -> Text,
    }
}

pub const TABLE: &str = "CREATE TABLE IF NOT EXISTS users (email text PRIMARY KEY)";

#[derive(Debug, Serialize, Deserialize, OutboxEvent)]
#[outbox(topic = "users", key = email)]
pub struct UserRegistered {
    pub email: String,
}

/// Registers a user, and announces it, in one transaction.
pub fn register(connection: &mut SqliteConnection, email: &str) -> Result<(), outbox::Error> {
    connection.transaction(|c| {
        let event = UserRegistered {
            email: email.to_owned(),
        };
        // Who changes first, and publishes then, publishes in the order of the changes.
        diesel::insert_into(users::table)
            .values(users::email.eq(email))
            .execute(c)?;
        event.publish(c)?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use diesel::connection::SimpleConnection as _;
    use diesel_migrations::MigrationHarness as _;
    use outbox::testing::{TestConnection as _, assert_published, refute_published};

    use super::*;

    /// A connection whose transaction is never committed.
    fn connection() -> SqliteConnection {
        let mut connection = SqliteConnection::establish(":memory:").unwrap();
        connection
            .run_pending_migrations(outbox::migrations::SQLITE)
            .unwrap();
        connection.batch_execute(TABLE).unwrap();
        connection.begin_test_transaction().unwrap();
        connection
    }

    #[test]
    fn a_registration_is_announced() {
        let conn = &mut connection();
        register(conn, "ada").unwrap();
        assert_published!(conn, UserRegistered { email } if email == "ada");
        refute_published!(conn, UserRegistered { email } if email != "ada");
    }

    #[test]
    fn a_registration_that_fails_is_not() {
        let conn = &mut connection();
        register(conn, "ada").unwrap();
        register(conn, "ada").unwrap_err();
        assert_eq!(conn.published::<UserRegistered>().len(), 1);
    }
}
