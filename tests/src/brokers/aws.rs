//! SQS and Kinesis of a test's own, what arrived there, and what they are made to refuse.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use outbox::{Headers, Message};
use serde_json::{Value, json};
use uuid::Uuid;

use super::runs::Inbox;
use crate::servers::{Aws, ElasticMq};

/// Why an entry of a request is not taken.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// The service's own code.
    pub code: &'static str,
    /// Whether it is the sender's fault. Kinesis does not say.
    pub sender_fault: bool,
}

/// Says of an entry, by its body or data, whether and why it is not taken.
pub type Judge = Arc<dyn Fn(&str) -> Option<Refusal> + Send + Sync>;

/// How to reach a service.
pub fn config_at(address: SocketAddr) -> SdkConfig {
    let credentials = Credentials::new("test", "test", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .endpoint_url(format!("http://{address}"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

/// The same without any credentials.
pub fn without_credentials(config: SdkConfig) -> SdkConfig {
    let none = SharedCredentialsProvider::new(NoCredentials);
    config.into_builder().credentials_provider(none).build()
}

/// The same, where single entries of requests are refused.
pub fn refusing(config: SdkConfig, judge: Judge) -> SdkConfig {
    let inner = aws_smithy_http_client::Builder::new().build_http();
    let client = SharedHttpClient::new(RefusingClient { inner, judge });
    config.into_builder().http_client(client).build()
}

/// SQS, played by ElasticMQ. moto looks at all messages of a FIFO queue for each that is sent: with 500 in it,
/// a request takes seconds.
#[derive(Debug)]
pub struct Sqs {
    server: ElasticMq,
}

impl Sqs {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start() -> Result<Self> {
        Ok(Self {
            server: ElasticMq::start()?,
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How to reach it.
    pub fn config(&self) -> SdkConfig {
        config_at(self.address())
    }

    /// Makes a queue of this name.
    ///
    /// # Errors
    ///
    /// When SQS refuses it.
    pub async fn create_queue(&self, name: &str) -> Result<Queue> {
        let client = aws_sdk_sqs::Client::new(&self.config());
        let mut request = client.create_queue().queue_name(name);
        if name.ends_with(".fifo") {
            request = request.attributes(QueueAttributeName::FifoQueue, "true");
        }
        let url = request.send().await?.queue_url.context("a URL")?;
        Ok(Queue { client, url })
    }
}

/// Kinesis, and whoever looks at credentials: played by moto.
#[derive(Debug)]
pub struct Moto {
    server: Aws,
}

impl Moto {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start() -> Result<Self> {
        Ok(Self {
            server: Aws::start()?,
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How to reach it.
    pub fn config(&self) -> SdkConfig {
        config_at(self.address())
    }

    /// From now on, credentials must be those of a user, of which there are none.
    ///
    /// # Errors
    ///
    /// When moto can't be asked.
    pub fn refuse_credentials(&self) -> Result<()> {
        let mut stream = TcpStream::connect(self.address())?;
        let request = "POST /moto-api/reset-auth HTTP/1.0\r\nContent-Length: 1\r\n\r\n0";
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.contains(" 200 "), "{answer}");
        Ok(())
    }

    /// Makes a stream of this name with so many shards.
    ///
    /// # Errors
    ///
    /// When Kinesis refuses it.
    pub async fn create_stream(&self, name: &str, shards: i32) -> Result<Stream> {
        let client = aws_sdk_kinesis::Client::new(&self.config());
        let request = client.create_stream().stream_name(name);
        request.shard_count(shards).send().await?;
        let name = name.to_owned();
        Ok(Stream { client, name })
    }
}

/// A queue.
#[derive(Debug)]
pub struct Queue {
    client: aws_sdk_sqs::Client,
    url: String,
}

impl Queue {
    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Takes all messages that are in it, in order, as messages of this topic.
    ///
    /// # Errors
    ///
    /// When SQS can't be asked, or something is not as the sink writes it.
    pub async fn take(&self, topic: &str) -> Result<Vec<Message>> {
        let mut taken = Vec::new();
        loop {
            let request = self.client.receive_message().queue_url(&self.url);
            let request = request.max_number_of_messages(10);
            let answer = request.message_attribute_names("All").send().await?;
            let messages = answer.messages.unwrap_or_default();
            if messages.is_empty() {
                return Ok(taken);
            }
            let mut delete = self.client.delete_message_batch().queue_url(&self.url);
            for (index, message) in messages.iter().enumerate() {
                let entry = aws_sdk_sqs::types::DeleteMessageBatchRequestEntry::builder()
                    .id(index.to_string())
                    .set_receipt_handle(message.receipt_handle.clone());
                delete = delete.entries(entry.build()?);
                taken.push(from_sqs(topic, message)?);
            }
            delete.send().await?;
        }
    }
}

impl Inbox for Queue {
    /// What is read from a queue is not in it any more.
    async fn arrived(&self, topic: &str) -> Result<Vec<Message>> {
        self.take(topic).await
    }

    fn keeps_order(&self) -> bool {
        self.url.ends_with(".fifo")
    }
}

/// As a consumer reads what [`outbox::sink::SqsSink`] documents.
fn from_sqs(topic: &str, received: &aws_sdk_sqs::types::Message) -> Result<Message> {
    let attributes = received.message_attributes.as_ref().context("attributes")?;
    let bytes = |value: &MessageAttributeValue| match value.data_type() {
        "Binary" => value.binary_value().map(|blob| blob.as_ref().to_vec()),
        "String.empty" => Some(Vec::new()),
        _ => value.string_value().map(|text| text.as_bytes().to_vec()),
    };
    let attribute = |name: &str| attributes.get(name).and_then(bytes);
    let text = |name: &str| attribute(name).map(String::from_utf8).transpose();
    let id = text("outbox-id")?.context("an id")?;
    let mut message = Message::new(topic).with_id(Uuid::parse_str(&id)?);
    let body = received.body.as_deref().unwrap_or_default();
    let has = |name: &str| attribute(name).is_some();
    if has("outbox-empty") {
        message = message.with_payload("");
    } else if text("outbox-base64")?.as_deref() == Some("body") {
        message = message.with_payload(BASE64.decode(body)?);
    } else if !has("outbox-tombstone") {
        message = message.with_payload(body);
    }
    if let Some(key) = attribute("outbox-key") {
        message = message.with_key(key);
    }
    if let Some(event_type) = text("outbox-type")? {
        message = message.with_event_type(event_type);
    }
    let headers = match text("outbox-headers")? {
        Some(json) => Headers::from_json(&json)?,
        None => attributes
            .iter()
            .filter(|(name, _)| !name.starts_with("outbox-"))
            .filter_map(|(name, value)| Some((name.clone(), bytes(value)?)))
            .collect(),
    };
    Ok(message.with_headers(headers))
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    client: aws_sdk_kinesis::Client,
    name: String,
}

impl Stream {
    /// The data of all records in it, shard by shard, each in order.
    ///
    /// # Errors
    ///
    /// When Kinesis can't be asked.
    pub async fn data(&self) -> Result<Vec<Vec<u8>>> {
        let shards = self.client.list_shards().stream_name(&self.name);
        let mut all = Vec::new();
        for shard in shards.send().await?.shards.unwrap_or_default() {
            let iterator = self.client.get_shard_iterator().stream_name(&self.name);
            let iterator = iterator
                .shard_id(shard.shard_id)
                .shard_iterator_type(aws_sdk_kinesis::types::ShardIteratorType::TrimHorizon);
            let mut next = iterator.send().await?.shard_iterator;
            while let Some(iterator) = next {
                let answer = self.client.get_records().shard_iterator(iterator);
                let answer = answer.send().await?;
                let is_end = answer.records.is_empty();
                let records = answer.records.into_iter();
                all.extend(records.map(|record| record.data.into_inner()));
                next = answer.next_shard_iterator.filter(|_| !is_end);
            }
        }
        Ok(all)
    }

    /// All messages in it, where the data are envelopes.
    ///
    /// # Errors
    ///
    /// When Kinesis can't be asked, or something is not as the sink writes it.
    pub async fn messages(&self) -> Result<Vec<Message>> {
        let data = self.data().await?;
        data.iter().map(|data| from_envelope(data)).collect()
    }
}

impl Inbox for Stream {
    async fn arrived(&self, _: &str) -> Result<Vec<Message>> {
        self.messages().await
    }
}

/// As a consumer reads what [`outbox::sink::KinesisSink`] documents.
fn from_envelope(data: &[u8]) -> Result<Message> {
    let envelope: Value = serde_json::from_slice(data)?;
    let text = |name: &str| envelope[name].as_str();
    let bytes = |name: &str| -> Result<Option<Vec<u8>>> {
        match (text(name), text(&format!("{name}_base64"))) {
            (Some(text), _) => Ok(Some(text.as_bytes().to_vec())),
            (None, Some(base64)) => Ok(Some(BASE64.decode(base64)?)),
            (None, None) => Ok(None),
        }
    };
    let id = Uuid::parse_str(text("id").context("an id")?)?;
    let mut message = Message::new(text("topic").context("a topic")?).with_id(id);
    if let Some(key) = bytes("key")? {
        message = message.with_key(key);
    }
    if let Some(payload) = bytes("payload")? {
        message = message.with_payload(payload);
    }
    if let Some(partition) = envelope["partition"].as_i64() {
        message = message.with_partition(partition.try_into()?);
    }
    if let Some(event_type) = text("type") {
        message = message.with_event_type(event_type);
    }
    if envelope["headers"].is_array() {
        message = message.with_headers(Headers::from_json(&envelope["headers"].to_string())?);
    }
    Ok(message)
}

#[derive(Debug)]
struct NoCredentials;

impl ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let error = CredentialsError::not_loaded("this machine has none");
        future::ProvideCredentials::ready(Err(error))
    }
}

/// Takes entries out of requests, and adds to the answers that they were refused.
#[derive(Clone)]
struct RefusingClient {
    inner: SharedHttpClient,
    judge: Judge,
}

impl fmt::Debug for RefusingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusingClient").finish_non_exhaustive()
    }
}

impl HttpClient for RefusingClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(RefusingConnector {
            inner: self.inner.http_connector(settings, components),
            client: self.clone(),
        })
    }
}

#[derive(Debug)]
struct RefusingConnector {
    inner: SharedHttpConnector,
    client: RefusingClient,
}

impl HttpConnector for RefusingConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (inner, judge) = (self.inner.clone(), self.client.judge.clone());
        HttpConnectorFuture::new(async move {
            refuse(&inner, &judge, request)
                .await
                .map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

async fn refuse(
    inner: &SharedHttpConnector,
    judge: &Judge,
    mut request: HttpRequest,
) -> Result<HttpResponse> {
    let target = request.headers().get("x-amz-target").unwrap_or_default();
    let list = match target.rsplit('.').next() {
        Some("SendMessageBatch") => "Entries",
        Some("PutRecords") => "Records",
        _ => return Ok(inner.call(request).await?),
    };
    let mut body: Value = serde_json::from_slice(request.body().bytes().context("a body")?)?;
    let entries = body[list].as_array().cloned().unwrap_or_default();
    let judged: Vec<_> = entries
        .iter()
        .map(|entry| -> Result<_> { Ok(judge(&content(entry)?)) })
        .collect::<Result<_>>()?;
    let taken: Vec<_> = entries
        .iter()
        .zip(&judged)
        .filter(|(_, refusal)| refusal.is_none())
        .map(|(entry, _)| entry.clone())
        .collect();
    let (mut answer, response) = match taken.is_empty() {
        true => (json!({}), None),
        false => {
            body[list] = taken.into();
            let body = serde_json::to_vec(&body)?;
            let length = body.len().to_string();
            request.headers_mut().insert("content-length", length);
            *request.body_mut() = SdkBody::from(body);
            let mut response = inner.call(request).await?;
            if !response.status().is_success() {
                return Ok(response);
            }
            let body = std::mem::replace(response.body_mut(), SdkBody::taken());
            let body = ByteStream::new(body).collect().await?.into_bytes();
            (serde_json::from_slice(&body)?, Some(response))
        }
    };
    match list {
        "Entries" => {
            let mut failed: Vec<Value> = answer["Failed"].as_array().cloned().unwrap_or_default();
            for (entry, refusal) in entries.iter().zip(&judged) {
                if let Some(refusal) = refusal {
                    failed.push(json!({
                        "Id": entry["Id"],
                        "Code": refusal.code,
                        "SenderFault": refusal.sender_fault,
                        "Message": "refused by the test",
                    }));
                }
            }
            answer["Failed"] = failed.into();
        }
        _ => {
            let taken = answer["Records"].as_array().cloned().unwrap_or_default();
            let mut taken = taken.into_iter();
            let records = judged.iter().map(|refusal| match refusal {
                Some(refusal) => json!({
                    "ErrorCode": refusal.code,
                    "ErrorMessage": "refused by the test",
                }),
                None => taken.next().unwrap_or_default(),
            });
            answer["Records"] = records.collect::<Vec<_>>().into();
            answer["FailedRecordCount"] = judged.iter().flatten().count().into();
        }
    }
    let body = SdkBody::from(serde_json::to_vec(&answer)?);
    Ok(match response {
        Some(mut response) => {
            response.headers_mut().remove("content-length");
            *response.body_mut() = body;
            response
        }
        None => HttpResponse::new(200.try_into()?, body),
    })
}

/// The body of an entry, or the data of a record.
fn content(entry: &Value) -> Result<String> {
    if let Some(body) = entry["MessageBody"].as_str() {
        return Ok(body.to_owned());
    }
    let data = BASE64.decode(entry["Data"].as_str().context("data")?)?;
    Ok(String::from_utf8_lossy(&data).into_owned())
}
