//! For tests: a store in memory, a sink that records, and suites for stores and sinks of your own.
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

pub mod contract;
mod memory;
mod recording;

pub use self::memory::{MemoryStore, ParkedMessage};
pub use self::recording::RecordingSink;
