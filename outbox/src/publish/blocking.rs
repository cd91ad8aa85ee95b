//! `publish` on diesel's own connections.

use diesel::Connection;
use diesel::connection::TransactionManager as _;

use super::{Executor, OutboxBackend, chunks, require_transaction};
use crate::{Error, Message};

/// The mode of diesel's connections. See [`Executor`].
#[derive(Debug)]
pub enum Blocking {}

// So that errors tell what the trait says, and not only which of diesel's is missing.
#[diagnostic::do_not_recommend]
impl<C> Executor<Blocking> for C
where
    C: Connection,
    C::Backend: OutboxBackend,
{
    type Output<'c, T: Send + 'static>
        = Result<T, Error>
    where
        C: 'c;

    fn insert<T: Send + 'static>(
        &mut self,
        messages: Result<Vec<Message>, Error>,
        value: T,
    ) -> Result<T, Error> {
        require_transaction(C::TransactionManager::transaction_manager_status_mut(self))?;
        match messages?.as_slice() {
            [message] => {
                self.execute_returning_count(&C::Backend::one(message))?;
            }
            messages => {
                for chunk in chunks::<C::Backend>(messages) {
                    self.execute_returning_count(&C::Backend::many(chunk))?;
                }
            }
        }
        Ok(value)
    }
}
