//! Looking at the outbox on diesel's own connections.

use diesel::RunQueryDsl as _;
use diesel::connection::LoadConnection;

use super::statements::Select;
use super::{TestBackend, TestConnection, Waiting};
use crate::{Blocking, Error};

// So that errors tell what the trait says, and not only which of diesel's is missing.
#[diagnostic::do_not_recommend]
impl<C> TestConnection<Blocking> for C
where
    C: LoadConnection,
    C::Backend: TestBackend,
{
    type Answer<'c, T: Send + 'c>
        = T
    where
        C: 'c;

    #[track_caller]
    fn look<'c, T, F>(&'c mut self, look: F) -> T
    where
        T: Send + 'c,
        F: FnOnce(Vec<Waiting>) -> (T, Vec<i64>) + Send + 'c,
    {
        // No closure: a panic is to show the line of the test.
        let rows = match Select.load::<<C::Backend as TestBackend>::Row>(self) {
            Ok(rows) => rows,
            Err(error) => panic!("the table `outbox` can't be read: {}", Error::from(error)),
        };
        let (value, settled) = look(rows.into_iter().map(Into::into).collect());
        for id in settled {
            let settle = <C::Backend as TestBackend>::Settle::from(id);
            self.execute_returning_count(&settle)
                .unwrap_or_else(|error| panic!("message {id} can't be settled: {error}"));
        }
        value
    }
}
