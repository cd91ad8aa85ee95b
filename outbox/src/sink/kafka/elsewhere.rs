//! Clients that are closed on a thread of their own.

use std::ops::Deref;

/// A client of librdkafka. Closing it waits for librdkafka's threads, which an async task must not.
pub(super) struct Elsewhere<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Elsewhere<T> {
    pub(super) fn new(client: T) -> Self {
        Self(Some(client))
    }
}

impl<T: Send + 'static> Deref for Elsewhere<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(client) => client,
            None => unreachable!("it is only taken out when it is dropped"),
        }
    }
}

impl<T: Send + 'static> Drop for Elsewhere<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        // Without a thread it is dropped here after all.
        let _ = std::thread::Builder::new()
            .name("outbox-kafka-end".into())
            .spawn(move || drop(client));
    }
}
