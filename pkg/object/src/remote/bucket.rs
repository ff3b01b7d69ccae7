//! Making a bucket on S3, the one request that opendal does not make: one PUT, signed here with
//! AWS signature version 4.

use std::time::{SystemTime, UNIX_EPOCH};

use cairn_env::Env;
use reqwest::{Method, Request, Url};
use ring::digest::{SHA256, digest};
use ring::hmac;

use super::connect::{Recipe, checked, unavailable};
use super::http;
use super::place::Service;
use crate::{Error, Result};

const ACTION: &str = "create bucket";

impl Recipe {
    /// Is this S3, and are the keys ours to sign with?
    pub(super) fn can_make_bucket(&self) -> bool {
        let s3 = matches!(self.place.service, Service::S3 { .. });
        s3 && !self.access_key.is_empty() && !self.is_anonymous()
    }

    /// Makes the bucket; one that is ours already counts as made.
    pub(super) async fn make_bucket(&self, env: &Env) -> Result<()> {
        let client = http::client(&self.place)?;
        let region = self.region(&client).await;
        let request = self.bucket_request(&region, env.now())?;
        let answer = client.execute(request).await;
        match &answer {
            Ok(answer) if answer.status().as_u16() == 409 => Ok(()),
            _ => checked(ACTION, answer).map(drop),
        }
    }

    fn bucket_request(&self, region: &str, now: SystemTime) -> Result<Request> {
        let host = match self.place.endpoint.as_str() {
            "" => format!("https://s3.{region}.amazonaws.com"),
            endpoint => endpoint.to_owned(),
        };
        let url = Url::parse(&format!("{host}/{}", self.place.bucket))
            .map_err(|e| Error::Config { reason: format!("{host} is no endpoint: {e}") })?;
        let body = location_constraint(region);
        let mut request = Request::new(Method::PUT, url);
        for (name, value) in self.signed_headers(request.url(), body.as_bytes(), region, now) {
            let value = value.parse().map_err(|_| unavailable(ACTION, format!("{name} does not fit a header")))?;
            request.headers_mut().insert(name, value);
        }
        *request.body_mut() = Some(body.into());
        Ok(request)
    }

    fn signed_headers(&self, url: &Url, body: &[u8], region: &str, now: SystemTime) -> Vec<(&'static str, String)> {
        let time = amz_date(now);
        // In the order of their names, as the signature wants them.
        let mut headers =
            vec![("host", host(url)), ("x-amz-content-sha256", sha256(body)), ("x-amz-date", time.clone())];
        if !self.session_token.is_empty() {
            headers.push(("x-amz-security-token", self.session_token.clone()));
        }
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let canonical = format!("PUT\n{}\n\n{lines}\n{names}\n{}", url.path(), sha256(body));
        let scope = format!("{}/{region}/s3/aws4_request", &time[..8]);
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let signature = hex(&self.signature(&scope, &to_sign));
        let credential = format!("{}/{scope}", self.access_key);
        let line = format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}");
        headers.push(("authorization", line));
        headers
    }

    fn signature(&self, scope: &str, to_sign: &str) -> Vec<u8> {
        let start = format!("AWS4{}", self.secret_key).into_bytes();
        let key = scope.split('/').fold(start, |key, part| sign(&key, part));
        sign(&key, to_sign)
    }
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"))
}

/// The first region is named by saying nothing.
fn location_constraint(region: &str) -> String {
    if region == "us-east-1" {
        return String::new();
    }
    let place = format!("<LocationConstraint>{region}</LocationConstraint>");
    let space = "http://s3.amazonaws.com/doc/2006-03-01/";
    format!("<CreateBucketConfiguration xmlns=\"{space}\">{place}</CreateBucketConfiguration>")
}

/// `YYYYMMDDTHHMMSSZ`
fn amz_date(now: SystemTime) -> String {
    let secs = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(secs / 86_400);
    let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The date `days` after 1970-01-01. Years count from March here, so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |secs| amz_date(UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_782_399), "20000228T235959Z");
        assert_eq!(at(951_782_400), "20000229T000000Z");
        assert_eq!(at(1_709_251_199), "20240229T235959Z");
        assert_eq!(at(1_800_000_000), "20270115T080000Z");
    }
}
