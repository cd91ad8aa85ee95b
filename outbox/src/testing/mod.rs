//! For tests: what was published, a store in memory, a sink that records, and suites for stores and sinks of
//! your own.
//!
//! # What was published
//!
//! A service is tested in a transaction that is never committed, as Diesel does it, and asks what it has
//! published there: [`assert_published!`], [`refute_published!`], and the methods of [`TestConnection`].
//! [`drain`](TestConnection::drain) delivers it to a [`RecordingSink`], without a runner.
//!
//! All of them see what the connection sees: what is committed in the database, and waits there, too. So let
//! tests have a database of their own in which nothing waits, and `begin_test_transaction` before anything else:
//! without it, `drain` settles what is committed.
//!
//! # A runner without servers
//!
//! A runner needs neither a database nor a broker here, and no test has to wait for a time to pass:
//!
//! ```
//! use std::time::Duration;
//!
//! use outbox::Message;
//! use outbox::runner::Runner;
//! use outbox::sink::SinkError;
//! use outbox::testing::{MemoryStore, RecordingSink};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let store = MemoryStore::new();
//! for payload in ["first", "second"] {
//!     store.publish(Message::new("orders").with_key("17").with_payload(payload))?;
//! }
//! // The broker refuses each message once.
//! let sink = RecordingSink::new().answering(|_, attempt| match attempt {
//!     0 => Err(SinkError::rejected("not now")),
//!     _ => Ok(()),
//! });
//! let runner = Runner::builder(store.clone(), sink.clone())
//!     // Longer than all the time that passes here.
//!     .lease(Duration::from_secs(1_000_000))
//!     .build()?;
//! runner
//!     .run_until(async {
//!         let settled = || store.waiting().is_empty() && store.parked().is_empty();
//!         while sink.delivered().len() < 2 || !settled() {
//!             // It is tried again with a back-off, by the clock of the store.
//!             store.advance(Duration::from_secs(60));
//!             tokio::time::sleep(Duration::from_millis(10)).await;
//!         }
//!     })
//!     .await?;
//! assert_eq!(sink.delivered()[1].payload(), Some(&b"second"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```

mod assertions;
mod connection;
pub mod contract;
mod drain;
mod memory;
mod recording;

pub use self::assertions::json;
#[doc(hidden)]
pub use self::assertions::{__assert_published, __refute_published};
pub use self::connection::{TestBackend, TestConnection};
pub use self::drain::Drained;
pub use self::memory::{MemoryStore, ParkedMessage};
pub use self::recording::RecordingSink;
#[doc(inline)]
pub use crate::{assert_published, refute_published};
