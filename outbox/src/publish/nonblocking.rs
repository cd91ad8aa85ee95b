//! `publish` on diesel-async's connections.

use diesel_async::{AsyncConnection, TransactionManager as _};
use futures_util::future::BoxFuture;

use super::{Executor, OutboxBackend, chunks, require_transaction};
use crate::{Error, Message};

/// The mode of diesel-async's connections. See [`Executor`].
#[derive(Debug)]
pub enum Async {}

// So that errors tell what the trait says, and not only which of diesel's is missing.
#[diagnostic::do_not_recommend]
impl<C> Executor<Async> for C
where
    C: AsyncConnection,
    C::Backend: OutboxBackend,
{
    type Output<'c, T: Send + 'static>
        = BoxFuture<'c, Result<T, Error>>
    where
        C: 'c;

    fn insert<'c, T: Send + 'static>(
        &'c mut self,
        messages: Result<Vec<Message>, Error>,
        value: T,
    ) -> BoxFuture<'c, Result<T, Error>> {
        Box::pin(async move {
            require_transaction(C::TransactionManager::transaction_manager_status_mut(self))?;
            match messages?.as_slice() {
                [message] => {
                    self.execute_returning_count(C::Backend::one(message))
                        .await?;
                }
                messages => {
                    for chunk in chunks::<C::Backend>(messages) {
                        self.execute_returning_count(C::Backend::many(chunk))
                            .await?;
                    }
                }
            }
            Ok(value)
        })
    }
}
