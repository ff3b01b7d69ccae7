//! From a place and its keys to an opendal operator. Some services have to be asked first: Amazon
//! for a bucket's region, Swift for a token, Backblaze for a bucket's id.

use opendal::{HttpTransporter, OperationContext, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::http::{self, with_causes};
use super::place::{Place, Service};
use crate::{Error, Location, Result};

const AMAZON: &str = "https://s3.amazonaws.com";
const DEFAULT_REGION: &str = "us-east-1";
const BACKBLAZE: &str = "https://api.backblazeb2.com";
/// An access key of this name means: send no signature.
const ANONYMOUS: &str = "anonymous";

/// What connecting needs; Debug is not derived, because it holds secrets.
#[derive(Clone)]
pub(super) struct Recipe {
    pub(super) place: Place,
    pub(super) access_key: String,
    pub(super) secret_key: String,
    pub(super) session_token: String,
    storage_class: String,
}

impl Recipe {
    pub(super) fn new(place: Place, location: &Location) -> Recipe {
        Recipe {
            place,
            access_key: location.access_key.clone(),
            secret_key: location.secret_key.clone(),
            session_token: location.session_token.clone(),
            storage_class: location.storage_class.clone(),
        }
    }

    /// Does the service take a storage class?
    pub(super) fn ignores_storage_class(&self) -> bool {
        !self.storage_class.is_empty() && !matches!(self.place.service, Service::S3 { .. } | Service::Gcs)
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.access_key == ANONYMOUS
    }

    /// The operator; asks the network only where the service has to be asked.
    pub(super) async fn connect(&self) -> Result<Operator> {
        let client = http::client(&self.place)?;
        let built = match self.place.service {
            Service::S3 { virtual_host } => self.s3(virtual_host, &self.region(&client).await),
            Service::Gcs => self.gcs(),
            Service::Azure => self.azure(),
            Service::Oss => self.oss(),
            Service::Cos => self.cos(),
            Service::Obs => self.obs(),
            Service::B2 => self.b2(&self.b2_bucket_id(&client).await?),
            Service::Swift => {
                let (storage_url, token) = self.swift_login(&client).await?;
                Operator::new(
                    services::Swift::default().endpoint(&storage_url).container(&self.place.bucket).token(&token),
                )
            }
            Service::Webdav => self.webdav(),
            #[cfg(feature = "sftp")]
            Service::Sftp => self.sftp()?,
            #[cfg(feature = "tos")]
            Service::Tos => self.tos(),
        };
        let operator = built.map_err(|e| Error::Config { reason: e.message().to_owned() })?;
        let transport = HttpTransporter::new(ReqwestTransport::new(client));
        Ok(operator.with_context(OperationContext::new().with_http_transport(transport)))
    }

    fn s3(&self, virtual_host: bool, region: &str) -> opendal::Result<Operator> {
        let endpoint = if self.place.endpoint.is_empty() { AMAZON } else { &self.place.endpoint };
        let mut s3 = services::S3::default().bucket(&self.place.bucket).endpoint(endpoint).region(region);
        if virtual_host {
            s3 = s3.enable_virtual_host_style();
        }
        if self.is_anonymous() {
            s3 = s3.skip_signature().disable_config_load();
        } else if !self.access_key.is_empty() {
            s3 = s3.access_key_id(&self.access_key).secret_access_key(&self.secret_key).disable_config_load();
            s3 = s3.session_token(&self.session_token);
        }
        Operator::new(s3.default_storage_class(&self.storage_class))
    }

    fn gcs(&self) -> opendal::Result<Operator> {
        let mut gcs = services::Gcs::default().bucket(&self.place.bucket).default_storage_class(&self.storage_class);
        if !self.place.endpoint.is_empty() {
            gcs = gcs.endpoint(&self.place.endpoint);
        }
        if self.is_anonymous() {
            gcs = gcs.skip_signature().disable_vm_metadata().disable_config_load();
        } else if !self.session_token.is_empty() {
            gcs = gcs.token(self.session_token.clone());
        }
        Operator::new(gcs)
    }

    fn azure(&self) -> opendal::Result<Operator> {
        if let Ok(text) = std::env::var("AZURE_STORAGE_CONNECTION_STRING")
            && !text.is_empty()
        {
            return Operator::new(services::Azblob::from_connection_string(&text)?.container(&self.place.bucket));
        }
        let endpoint = self.place.endpoint.replace("{account}", &self.access_key);
        let mut azure = services::Azblob::default().container(&self.place.bucket).endpoint(&endpoint);
        azure = azure.account_name(&self.access_key);
        if !self.secret_key.is_empty() {
            azure = azure.account_key(&self.secret_key);
        }
        if !self.session_token.is_empty() {
            azure = azure.sas_token(&self.session_token);
        }
        Operator::new(azure)
    }

    fn oss(&self) -> opendal::Result<Operator> {
        let mut oss = services::Oss::default().bucket(&self.place.bucket).endpoint(&self.place.endpoint);
        if self.is_anonymous() {
            oss = oss.skip_signature();
        } else {
            oss = oss.access_key_id(&self.access_key).access_key_secret(&self.secret_key);
            oss = oss.security_token(&self.session_token);
        }
        Operator::new(oss)
    }

    fn cos(&self) -> opendal::Result<Operator> {
        let mut cos = services::Cos::default().bucket(&self.place.bucket).endpoint(&self.place.endpoint);
        if !self.access_key.is_empty() {
            cos = cos.secret_id(&self.access_key).secret_key(&self.secret_key).disable_config_load();
            cos = cos.security_token(&self.session_token);
        }
        Operator::new(cos)
    }

    fn obs(&self) -> opendal::Result<Operator> {
        let obs = services::Obs::default().bucket(&self.place.bucket).endpoint(&self.place.endpoint);
        Operator::new(obs.access_key_id(&self.access_key).secret_access_key(&self.secret_key))
    }

    fn b2(&self, bucket_id: &str) -> opendal::Result<Operator> {
        let b2 = services::B2::default().bucket(&self.place.bucket).bucket_id(bucket_id);
        Operator::new(b2.application_key_id(&self.access_key).application_key(&self.secret_key))
    }

    fn webdav(&self) -> opendal::Result<Operator> {
        let webdav = services::Webdav::default().endpoint(&self.place.endpoint);
        Operator::new(webdav.username(&self.access_key).password(&self.secret_key).token(&self.session_token))
    }

    /// Keys are those of ssh: an agent's, or the file that the environment names.
    #[cfg(feature = "sftp")]
    fn sftp(&self) -> Result<opendal::Result<Operator>> {
        if !self.secret_key.is_empty() {
            let reason =
                "sftp takes no password here: leave the secret key empty and use an ssh key (SSH_PRIVATE_KEY_PATH)";
            return Err(Error::Config { reason: reason.to_owned() });
        }
        let key = std::env::var("SSH_PRIVATE_KEY_PATH").unwrap_or_default();
        let sftp = services::Sftp::default().endpoint(&self.place.endpoint).root(&self.place.bucket);
        Ok(Operator::new(sftp.user(&self.access_key).key(&key)))
    }

    #[cfg(feature = "tos")]
    fn tos(&self) -> opendal::Result<Operator> {
        let region = self.place.region.as_deref().unwrap_or_default();
        let tos = services::Tos::default().bucket(&self.place.bucket).endpoint(&self.place.endpoint).region(region);
        let tos = tos.access_key_id(&self.access_key).secret_access_key(&self.secret_key);
        Operator::new(tos.security_token(&self.session_token))
    }

    /// The region to sign for: what the URL says, what the environment says, what Amazon says.
    pub(super) async fn region(&self, client: &Client) -> String {
        if let Some(region) = &self.place.region {
            return region.clone();
        }
        let asked = match self.place.endpoint.is_empty() {
            true => self.ask_region(client).await,
            false => None,
        };
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        asked
            .or_else(|| variable("AWS_REGION"))
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .unwrap_or_else(|| DEFAULT_REGION.to_owned())
    }

    async fn ask_region(&self, client: &Client) -> Option<String> {
        // Any answer carries the header, also a refusal.
        let answer = client.head(format!("{AMAZON}/{}", self.place.bucket)).send().await.ok()?;
        header(&answer, "x-amz-bucket-region")
    }

    /// Swift's first kind of login: an address and a token for a name and a password.
    async fn swift_login(&self, client: &Client) -> Result<(String, String)> {
        let request = client
            .get(format!("{}/auth/v1.0", self.place.endpoint))
            .header("X-Auth-User", &self.access_key)
            .header("X-Auth-Key", &self.secret_key);
        let answer = checked("log in to swift", request.send().await)?;
        match (header(&answer, "x-storage-url"), header(&answer, "x-auth-token")) {
            (Some(url), Some(token)) => Ok((url, token)),
            _ => Err(unavailable("log in to swift", "the answer has no storage URL or token".to_owned())),
        }
    }

    async fn b2_bucket_id(&self, client: &Client) -> Result<String> {
        let action = "look up the b2 bucket";
        let login = client
            .get(format!("{BACKBLAZE}/b2api/v2/b2_authorize_account"))
            .basic_auth(&self.access_key, Some(&self.secret_key));
        let account = body(action, checked(action, login.send().await)?).await?;
        let (api, token) = (text(&account, "/apiUrl"), text(&account, "/authorizationToken"));
        let question = json!({ "accountId": text(&account, "/accountId"), "bucketName": self.place.bucket });
        let listing = client
            .post(format!("{api}/b2api/v2/b2_list_buckets"))
            .header("Authorization", token)
            .body(question.to_string());
        let buckets = body(action, checked(action, listing.send().await)?).await?;
        match text(&buckets, "/buckets/0/bucketId") {
            "" => Err(Error::Config { reason: format!("the bucket {} does not exist", self.place.bucket) }),
            id => Ok(id.to_owned()),
        }
    }
}

fn header(answer: &Response, name: &str) -> Option<String> {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn unavailable(action: &'static str, reason: String) -> Error {
    Error::Unavailable { action, key: String::new(), reason, persistent: false }
}

pub(super) fn checked(action: &'static str, answer: reqwest::Result<Response>) -> Result<Response> {
    let answer = answer.map_err(|e| unavailable(action, with_causes(&e.without_url())))?;
    match answer.status().as_u16() {
        200..=299 => Ok(answer),
        401 | 403 => {
            let reason = format!("the store answered {}", answer.status());
            Err(Error::Denied { action, key: String::new(), reason })
        }
        _ => Err(unavailable(action, format!("the store answered {}", answer.status()))),
    }
}

async fn body(action: &'static str, answer: Response) -> Result<Value> {
    let bytes = answer.bytes().await.map_err(|e| unavailable(action, with_causes(&e.without_url())))?;
    serde_json::from_slice(&bytes).map_err(|e| unavailable(action, format!("the answer is no JSON: {e}")))
}
