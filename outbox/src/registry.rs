//! Schema registries, as Confluent's, Karapace and Apicurio are: which schema an event is written
//! with.
//!
//! A payload in Confluent's format says by a number which schema it was written with, and the
//! registry knows the schemas by their numbers. The number has to be known when an event is encoded,
//! which is inside of a database transaction; no network is used there. So a program registers its
//! types when it starts:
//!
//! ```no_run
//! # #[cfg(feature = "avro")] {
//! use outbox::registry::SchemaRegistry;
//! use outbox::{Avro, Confluent, OutboxEvent};
//!
//! #[derive(serde::Serialize, apache_avro::AvroSchema, OutboxEvent)]
//! #[outbox(topic = "orders", key = order_id, encode = Confluent<Avro>)]
//! struct OrderPlaced {
//!     order_id: i64,
//! }
//!
//! # async fn start() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = SchemaRegistry::new("https://registry.shop.example").with_basic_auth("shop", "…");
//! registry.register::<OrderPlaced, Avro>("orders").await?;
//! # Ok(())
//! # }
//! # }
//! ```
//!
//! From then on [`Confluent`] encodes events of this type for this topic, everywhere in the program.
//! An event that was not registered is refused with [`NotRegistered`], and its transaction fails.
//!
//! What is kept is the number for each type, format and topic. A program that uses two registries
//! whose numbers differ can't have the same type and topic in both.

mod confluent;
mod error;
mod ids;
#[cfg(feature = "protobuf")]
mod message_index;
mod schema;

use std::any::type_name;
use std::fmt;
use std::time::Duration;

use schema_registry_converter::async_impl::schema_registry::{
    SrSettings, perform_sr_call, post_schema,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{SrCall, SuppliedSchema};

pub use self::confluent::Confluent;
pub use self::error::{NotRegistered, RegistryError};
#[cfg(feature = "protobuf")]
pub use self::schema::ProtobufSchema;
pub use self::schema::{Format, JsonSchema, Schema};

/// How long the registry may take to answer unless [`SchemaRegistry::with_timeout`] says otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A schema registry, where types are registered when a program starts. See the [module](self).
#[derive(Clone)]
pub struct SchemaRegistry {
    url: String,
    further_urls: Vec<String>,
    authorization: Option<Authorization>,
    timeout: Duration,
    subjects: SubjectNames,
}

#[derive(Clone)]
enum Authorization {
    Basic { user: String, password: String },
    Bearer { token: String },
}

/// Under which subject a schema is registered, by the strategies of Confluent's clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubjectNames {
    /// `<topic>-value`: one type of event in each topic. The default.
    #[default]
    Topic,
    /// `<name of the schema>`: any types of events in a topic.
    Record,
    /// `<topic>-<name of the schema>`: any types of events in a topic, compatible within it only.
    TopicRecord,
}

/// What to do with a schema.
#[derive(Clone, Copy)]
enum Action {
    Register,
    LookUp,
}

impl SchemaRegistry {
    /// The registry at this URL, such as `http://localhost:8081`. Nothing is sent yet.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: without_slash(url.into()),
            further_urls: Vec::new(),
            authorization: None,
            timeout: TIMEOUT,
            subjects: SubjectNames::default(),
        }
    }

    /// Adds the URL of another node of the same registry, for when those before it don't answer.
    #[must_use]
    pub fn with_further_url(mut self, url: impl Into<String>) -> Self {
        self.further_urls.push(without_slash(url.into()));
        self
    }

    /// Logs in by name and password; at Confluent Cloud these are the API key and its secret.
    #[must_use]
    pub fn with_basic_auth(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.authorization = Some(Authorization::Basic {
            user: user.into(),
            password: password.into(),
        });
        self
    }

    /// Logs in by a token.
    #[must_use]
    pub fn with_bearer_token(mut self, token: impl Into<String>) -> Self {
        self.authorization = Some(Authorization::Bearer {
            token: token.into(),
        });
        self
    }

    /// Sets how long a call may take. By default 30 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets under which subjects schemas are registered. By default [`SubjectNames::Topic`].
    #[must_use]
    pub fn with_subjects(mut self, subjects: SubjectNames) -> Self {
        self.subjects = subjects;
        self
    }

    /// Registers the schema of events of the type `T`, in the format `E`, for a topic, and returns
    /// its id. A schema that is there already keeps its id.
    ///
    /// An event whose topic depends on its value is registered for each of them.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] if the registry can't be reached or refuses the schema, for instance because
    /// it isn't compatible with the version before.
    pub async fn register<T, E>(&self, topic: &str) -> Result<u32, RegistryError>
    where
        T: ?Sized,
        E: Format<T>,
    {
        self.run::<T, E>(Action::Register, topic).await
    }

    /// As [`register`](Self::register), but the schema has to be registered already, by whoever may
    /// do that. Nothing is changed in the registry.
    ///
    /// # Errors
    ///
    /// [`RegistryError`] if the registry can't be reached or does not know the schema.
    pub async fn look_up<T, E>(&self, topic: &str) -> Result<u32, RegistryError>
    where
        T: ?Sized,
        E: Format<T>,
    {
        self.run::<T, E>(Action::LookUp, topic).await
    }

    /// As [`register`](Self::register), for programs without an asynchronous runtime. It waits for
    /// the answer on a thread of its own.
    ///
    /// # Errors
    ///
    /// As [`register`](Self::register).
    pub fn register_blocking<T, E>(&self, topic: &str) -> Result<u32, RegistryError>
    where
        T: ?Sized,
        E: Format<T>,
    {
        self.run_blocking::<T, E>(Action::Register, topic)
    }

    /// As [`look_up`](Self::look_up), for programs without an asynchronous runtime. It waits for the
    /// answer on a thread of its own.
    ///
    /// # Errors
    ///
    /// As [`look_up`](Self::look_up).
    pub fn look_up_blocking<T, E>(&self, topic: &str) -> Result<u32, RegistryError>
    where
        T: ?Sized,
        E: Format<T>,
    {
        self.run_blocking::<T, E>(Action::LookUp, topic)
    }

    async fn run<T, E>(&self, action: Action, topic: &str) -> Result<u32, RegistryError>
    where
        T: ?Sized,
        E: Format<T>,
    {
        let schema = E::schema().map_err(|error| RegistryError::schema(type_name::<T>(), error))?;
        let subject = self.subject(topic, &schema).ok_or_else(|| {
            let reason = "the schema has no name, which this strategy for subjects needs";
            RegistryError::schema(type_name::<T>(), reason.into())
        })?;
        let answer = self.call(action, &subject, &schema).await;
        let id =
            answer.map_err(|error| RegistryError::registry(type_name::<T>(), &subject, error))?;
        ids::insert::<T, E>(topic, schema.prefix(id));
        Ok(id)
    }

    /// On a thread of its own, because a runtime can't be started in the thread of another one.
    fn run_blocking<T, E>(&self, action: Action, topic: &str) -> Result<u32, RegistryError>
    where
        T: ?Sized,
        E: Format<T>,
    {
        let work = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build();
            let runtime =
                runtime.map_err(|error| RegistryError::local(type_name::<T>(), error.into()))?;
            runtime.block_on(self.run::<T, E>(action, topic))
        };
        std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| {
            let reason = "the client of the registry panicked";
            Err(RegistryError::local(type_name::<T>(), reason.into()))
        })
    }

    async fn call(&self, action: Action, subject: &str, schema: &Schema) -> Result<u32, SRCError> {
        let settings = self.settings()?;
        match action {
            Action::Register => {
                let supplied = SuppliedSchema::new(None, schema.kind(), schema.text().to_owned());
                let registered = post_schema(&settings, subject.to_owned(), supplied).await?;
                Ok(registered.id)
            }
            Action::LookUp => {
                let body = schema.request();
                let call = SrCall::PostForVersion(subject, &body);
                let found = perform_sr_call(&settings, call).await?;
                found.id.ok_or_else(|| {
                    SRCError::non_retryable_without_cause("the answer contains no id")
                })
            }
        }
    }

    /// Made for each call: a pool of connections belongs to the runtime that it was first used on,
    /// and may not outlive it.
    fn settings(&self) -> Result<SrSettings, SRCError> {
        let mut settings = SrSettings::new_builder(self.url.clone());
        for url in &self.further_urls {
            settings.add_url(url.clone());
        }
        match &self.authorization {
            Some(Authorization::Basic { user, password }) => {
                settings.set_basic_authorization(user, Some(password));
            }
            Some(Authorization::Bearer { token }) => {
                settings.set_token_authorization(token);
            }
            None => {}
        }
        settings.set_timeout(self.timeout).build()
    }

    fn subject(&self, topic: &str, schema: &Schema) -> Option<String> {
        match self.subjects {
            SubjectNames::Topic => Some(format!("{topic}-value")),
            SubjectNames::Record => Some(schema.name()?.to_owned()),
            SubjectNames::TopicRecord => Some(format!("{topic}-{}", schema.name()?)),
        }
    }
}

/// The client puts its paths, which start with a slash, behind the URL.
fn without_slash(mut url: String) -> String {
    url.truncate(url.trim_end_matches('/').len());
    url
}

impl fmt::Debug for SchemaRegistry {
    /// Without what is secret; a URL can contain a password, too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchemaRegistry")
            .field("timeout", &self.timeout)
            .field("subjects", &self.subjects)
            .finish_non_exhaustive()
    }
}
