//! From a bucket URL, in the shapes that JuiceFS takes for each driver, to a service, an endpoint and
//! a bucket. Pure: no network, no environment.

use reqwest::Url;

use crate::{Error, Result};

/// Drivers and what speaks their protocol.
const STORAGES: &[(&str, Kind)] = &[
    ("s3", Kind::S3(Dialect::Aws)),
    ("minio", Kind::S3(Dialect::Minio)),
    ("space", Kind::S3(Dialect::HostLabel(1))),
    ("wasabi", Kind::S3(Dialect::HostLabel(2))),
    ("scw", Kind::S3(Dialect::HostLabel(2))),
    ("eos", Kind::S3(Dialect::Aws)),
    ("gs", Kind::Gcs),
    ("wasb", Kind::Azure),
    ("oss", Kind::Oss),
    ("cos", Kind::Cos),
    ("obs", Kind::Obs),
    ("b2", Kind::B2),
    ("swift", Kind::Swift),
    ("webdav", Kind::Webdav),
    #[cfg(feature = "sftp")]
    ("sftp", Kind::Sftp),
    #[cfg(feature = "tos")]
    ("tos", Kind::Tos),
];

/// Drivers that are built only with the cargo feature of their name.
pub(crate) const OPTIONAL: [&str; 2] = ["sftp", "tos"];

#[derive(Clone, Copy)]
enum Kind {
    S3(Dialect),
    Gcs,
    Azure,
    Oss,
    Cos,
    Obs,
    B2,
    Swift,
    Webdav,
    #[cfg(feature = "sftp")]
    Sftp,
    #[cfg(feature = "tos")]
    Tos,
}

/// How S3 drivers differ in what their URL says.
#[derive(Clone, Copy)]
enum Dialect {
    /// Amazon's own names, or any endpoint.
    Aws,
    /// The bucket is always in the path.
    Minio,
    /// Virtual host; the region is this label of the host's name.
    HostLabel(usize),
}

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// With the bucket's name in the host, or in the path.
    S3 {
        virtual_host: bool,
    },
    Gcs,
    Azure,
    Oss,
    Cos,
    Obs,
    B2,
    Swift,
    Webdav,
    #[cfg(feature = "sftp")]
    Sftp,
    #[cfg(feature = "tos")]
    Tos,
}

impl Service {
    /// Does it list one folder at a time, instead of a whole bucket in order?
    pub(crate) fn lists_folders(self) -> bool {
        match self {
            Service::Webdav => true,
            #[cfg(feature = "sftp")]
            Service::Sftp => true,
            _ => false,
        }
    }
}

/// Where to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) service: Service,
    pub(crate) bucket: String,
    /// Scheme, host and port; empty: the service's own.
    pub(crate) endpoint: String,
    /// As far as the URL tells.
    pub(crate) region: Option<String>,
    pub(crate) options: Options,
}

/// What the query of the bucket URL may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `tls-insecure-skip-verify=true`
    pub(crate) accept_any_certificate: bool,
    /// `ca-certs`: PEM file of who may sign the server's certificate.
    pub(crate) ca_certs: Option<String>,
    /// `ssl-cert` and `ssl-key`: PEM files of our own certificate.
    pub(crate) ssl_cert: Option<String>,
    pub(crate) ssl_key: Option<String>,
    /// `disable-checksum=true`
    pub(crate) no_checksum: bool,
    /// `region`
    pub(crate) region: Option<String>,
}

pub(crate) fn known_storages() -> impl Iterator<Item = &'static str> {
    STORAGES.iter().map(|(name, _)| *name)
}

/// Reads `bucket` as the driver `storage` does; `None` if there is no such driver.
/// `path_style` is what S3 drivers do at an endpoint that is not Amazon's.
pub(crate) fn parse(storage: &str, bucket: &str, path_style: bool) -> Result<Option<Place>> {
    let Some((_, kind)) = STORAGES.iter().find(|(name, _)| *name == storage) else { return Ok(None) };
    #[cfg(feature = "sftp")]
    if matches!(kind, Kind::Sftp) {
        return sftp(bucket).map(Some);
    }
    let url = Url::parse(&with_scheme(*kind, bucket)).map_err(|e| wrong(bucket, &e.to_string()))?;
    let mut place = match kind {
        Kind::S3(Dialect::Aws) => amazon_or_like(&url, path_style),
        Kind::S3(Dialect::Minio) => minio(&url),
        Kind::S3(Dialect::HostLabel(label)) => virtual_host(&url, *label),
        Kind::Gcs => google(&url),
        Kind::Azure => azure(&url),
        Kind::Oss => bucket_dot_host(&url, Service::Oss),
        Kind::Cos => bucket_dot_host(&url, Service::Cos),
        Kind::Obs => bucket_dot_host(&url, Service::Obs),
        Kind::Swift => bucket_dot_host(&url, Service::Swift),
        Kind::B2 => backblaze(&url),
        Kind::Webdav => Some(webdav(&url)),
        #[cfg(feature = "sftp")]
        Kind::Sftp => None,
        #[cfg(feature = "tos")]
        Kind::Tos => tos(&url),
    }
    .filter(|place| !place.bucket.is_empty() || place.service == Service::Webdav)
    .ok_or_else(|| wrong(bucket, &format!("it names no bucket in a way that {storage} knows")))?;
    place.options = options(&url);
    place.region = place.options.region.clone().or(place.region);
    Ok(Some(place))
}

fn wrong(bucket: &str, reason: &str) -> Error {
    Error::Config { reason: format!("the bucket URL {:?} can't be used: {reason}", without_secrets(bucket)) }
}

/// The URL without user, password and query.
pub(crate) fn without_secrets(bucket: &str) -> String {
    let plain = bucket.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or_default())
        }
        None => plain.to_owned(),
    }
}

fn with_scheme(kind: Kind, bucket: &str) -> String {
    if bucket.contains("://") {
        return bucket.to_owned();
    }
    let scheme = match kind {
        Kind::Gcs => "gs",
        Kind::Swift | Kind::Webdav | Kind::S3(Dialect::Minio) => "http",
        Kind::S3(Dialect::Aws) if bucket.contains('.') && !host_of(bucket).ends_with(".amazonaws.com") => "http",
        _ => "https",
    };
    format!("{scheme}://{bucket}")
}

fn host_of(bucket: &str) -> &str {
    bucket.split(['/', '?']).next().unwrap_or_default()
}

fn options(url: &Url) -> Options {
    let mut options = Options::default();
    for (name, value) in url.query_pairs() {
        let is_true = value.eq_ignore_ascii_case("true");
        match &*name {
            "tls-insecure-skip-verify" => options.accept_any_certificate = is_true,
            "ca-certs" => options.ca_certs = Some(value.into_owned()),
            "ssl-cert" => options.ssl_cert = Some(value.into_owned()),
            "ssl-key" => options.ssl_key = Some(value.into_owned()),
            "disable-checksum" => options.no_checksum = is_true,
            "region" => options.region = Some(value.into_owned()),
            _ => {}
        }
    }
    options
}

fn place(service: Service, bucket: &str, endpoint: String, region: Option<&str>) -> Place {
    let region = region.filter(|r| !r.is_empty()).map(str::to_owned);
    Place { service, bucket: bucket.to_owned(), endpoint, region, options: Options::default() }
}

/// `scheme://host[:port]` with `host` in place of the URL's own.
fn endpoint(url: &Url, host: &str) -> String {
    match url.port() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

fn first_path_part(url: &Url) -> &str {
    url.path().trim_start_matches('/').split('/').next().unwrap_or_default()
}

/// `http://host[:port]/bucket`, `http://bucket.host`, `bucket`, and Amazon's forms of each.
fn amazon_or_like(url: &Url, path_style: bool) -> Option<Place> {
    let host = url.host_str()?;
    let bucket = first_path_part(url);
    let is_amazon = host.contains(".amazonaws.com");
    if is_amazon && !host.contains(".vpce.") {
        return amazon(url, host, bucket);
    }
    let elsewhere = Service::S3 { virtual_host: !path_style };
    if !bucket.is_empty() {
        return Some(place(elsewhere, bucket, endpoint(url, host), region_in(host)));
    }
    if is_ip(url) {
        return None;
    }
    match host.split_once('.') {
        Some((bucket, host)) => Some(place(elsewhere, bucket, endpoint(url, host), region_in(host))),
        // A bare name is a bucket at Amazon whose region has to be asked for.
        None => Some(place(Service::S3 { virtual_host: true }, host, String::new(), None)),
    }
}

fn is_ip(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok()
}

fn amazon(url: &Url, host: &str, bucket: &str) -> Option<Place> {
    let (bucket, host) = match bucket {
        // bucket.s3.region.amazonaws.com or bucket.s3-region.amazonaws.com
        "" => host.find(".s3").map(|at| (&host[..at], &host[at + 1..]))?,
        bucket => (bucket, host),
    };
    // A dot in the bucket's name does not match the certificate of *.s3.amazonaws.com.
    let service = Service::S3 { virtual_host: !bucket.contains('.') };
    Some(place(service, bucket, endpoint(url, host), Some(amazon_region(host))))
}

/// The region in `s3[-.][dualstack.]region.amazonaws.com`.
fn amazon_region(host: &str) -> &str {
    let rest = host.strip_prefix("s3-").or(host.strip_prefix("s3.")).unwrap_or(host);
    let rest = rest.strip_prefix("dualstack.").unwrap_or(rest);
    match rest.split('.').next() {
        Some("external-1" | "amazonaws") | None => "us-east-1",
        Some(region) => region,
    }
}

/// The region that hosts of some other S3 services name.
fn region_in(host: &str) -> Option<&str> {
    if let Some((before, _)) = host.split_once(".vpce.amazonaws.com") {
        return before.rsplit('.').next();
    }
    if let Some(rest) = host.strip_suffix(".oraclecloud.com") {
        return rest.rsplit('.').next();
    }
    let middle = host.strip_prefix("s3.")?.strip_suffix(".cloud.ovh.net")?;
    middle.split('.').next()
}

fn minio(url: &Url) -> Option<Place> {
    let path = url.path().trim_start_matches('/');
    let path = path.strip_prefix("minio/").unwrap_or(path);
    let bucket = path.split('/').next()?;
    Some(place(Service::S3 { virtual_host: false }, bucket, endpoint(url, url.host_str()?), None))
}

/// `https://bucket.[s3.]region.provider`
fn virtual_host(url: &Url, region_label: usize) -> Option<Place> {
    let host = url.host_str()?;
    let (bucket, rest) = host.split_once('.')?;
    let region = host.split('.').nth(region_label);
    Some(place(Service::S3 { virtual_host: true }, bucket, endpoint(url, rest), region))
}

/// `gs://bucket`, or `http://host:port/bucket` for a server that speaks the same.
fn google(url: &Url) -> Option<Place> {
    let host = url.host_str()?;
    if url.scheme() != "gs" && !first_path_part(url).is_empty() {
        return Some(place(Service::Gcs, first_path_part(url), endpoint(url, host), None));
    }
    Some(place(Service::Gcs, host.split('.').next()?, String::new(), None))
}

/// `https://container[.domain]`; the account comes from the access key. An endpoint here is what
/// follows the account: `.blob.core.windows.net`. `http://host:port/account/container` for an emulator.
fn azure(url: &Url) -> Option<Place> {
    let host = url.host_str()?;
    let mut path = url.path().trim_matches('/').splitn(2, '/');
    if let (Some(account), Some(container)) = (path.next(), path.next()) {
        let endpoint = format!("{}/{account}", endpoint(url, host));
        return Some(place(Service::Azure, container, endpoint, None));
    }
    let (container, domain) = match host.split_once('.') {
        Some((container, domain)) if domain.starts_with("blob") => (container, domain.to_owned()),
        Some((container, domain)) => (container, format!("blob.{domain}")),
        None => (host, "blob.core.windows.net".to_owned()),
    };
    Some(place(Service::Azure, container, format!("{}://{{account}}.{domain}", url.scheme()), None))
}

/// `https://bucket.host`; the host can't be left out.
fn bucket_dot_host(url: &Url, service: Service) -> Option<Place> {
    let host = url.host_str()?;
    let path = first_path_part(url);
    if !path.is_empty() && service == Service::Oss {
        return Some(place(service, path, endpoint(url, host), None));
    }
    let (bucket, rest) = host.split_once('.').filter(|_| !is_ip(url))?;
    Some(place(service, bucket, endpoint(url, rest), None))
}

fn backblaze(url: &Url) -> Option<Place> {
    Some(place(Service::B2, url.host_str()?.split('.').next()?, String::new(), None))
}

/// `bucket.tos-region.volces.com`
#[cfg(feature = "tos")]
fn tos(url: &Url) -> Option<Place> {
    let place = bucket_dot_host(url, Service::Tos)?;
    let host = place.endpoint.split_once("://")?.1;
    let region = host.strip_prefix("tos-")?.split('.').next()?.to_owned();
    Some(Place { region: Some(region), ..place })
}

/// `[user@]host[:port]:/folder`
#[cfg(feature = "sftp")]
fn sftp(bucket: &str) -> Result<Place> {
    match bucket.strip_prefix("sftp://").unwrap_or(bucket).rsplit_once(':') {
        Some((host, folder)) if !host.is_empty() && folder.starts_with('/') => {
            Ok(place(Service::Sftp, folder.trim_end_matches('/'), format!("ssh://{host}"), None))
        }
        _ => Err(wrong(bucket, "sftp takes [user@]host[:port]:/folder, the folder from the root on")),
    }
}

/// The whole URL is the folder.
fn webdav(url: &Url) -> Place {
    let mut folder = url.clone();
    folder.set_query(None);
    // Credentials have their own place; in the URL they would be shown.
    let cleared = folder.set_username("").and(folder.set_password(None));
    debug_assert!(cleared.is_ok(), "http URLs can have no user");
    place(Service::Webdav, "", folder.as_str().trim_end_matches('/').to_owned(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(storage: &str, bucket: &str) -> (String, String, Option<String>, bool) {
        let place = parse(storage, bucket, true).unwrap().unwrap();
        let Service::S3 { virtual_host } = place.service else { panic!("{place:?}") };
        (place.bucket, place.endpoint, place.region, virtual_host)
    }

    fn expect(
        bucket: &str,
        endpoint: &str,
        region: &str,
        virtual_host: bool,
    ) -> (String, String, Option<String>, bool) {
        let region = (!region.is_empty()).then(|| region.to_owned());
        (bucket.to_owned(), endpoint.to_owned(), region, virtual_host)
    }

    #[test]
    fn s3_urls_in_every_shape_name_bucket_endpoint_and_region() {
        let cases = [
            ("http://127.0.0.1:9000/bkt", expect("bkt", "http://127.0.0.1:9000", "", false)),
            ("127.0.0.1:9000/bkt/more", expect("bkt", "http://127.0.0.1:9000", "", false)),
            ("https://bkt.minio.example:9000", expect("bkt", "https://minio.example:9000", "", false)),
            ("bkt", expect("bkt", "", "", true)),
            ("https://bkt", expect("bkt", "", "", true)),
            (
                "https://bkt.s3.eu-west-1.amazonaws.com",
                expect("bkt", "https://s3.eu-west-1.amazonaws.com", "eu-west-1", true),
            ),
            ("bkt.s3-us-west-2.amazonaws.com", expect("bkt", "https://s3-us-west-2.amazonaws.com", "us-west-2", true)),
            (
                "https://s3.cn-north-1.amazonaws.com.cn/bkt",
                expect("bkt", "https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", true),
            ),
            ("https://s3.amazonaws.com/my.bkt", expect("my.bkt", "https://s3.amazonaws.com", "us-east-1", false)),
            (
                "https://s3.dualstack.us-east-2.amazonaws.com/b-1",
                expect("b-1", "https://s3.dualstack.us-east-2.amazonaws.com", "us-east-2", true),
            ),
            (
                "https://bkt.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com",
                expect("bkt", "https://vpce-1a2b.s3.us-east-1.vpce.amazonaws.com", "us-east-1", false),
            ),
            (
                "https://bkt.ns.compat.objectstorage.eu-zurich-1.oraclecloud.com",
                expect("bkt", "https://ns.compat.objectstorage.eu-zurich-1.oraclecloud.com", "eu-zurich-1", false),
            ),
            ("https://bkt.s3.gra.io.cloud.ovh.net", expect("bkt", "https://s3.gra.io.cloud.ovh.net", "gra", false)),
        ];
        for (url, expected) in cases {
            assert_eq!(s3("s3", url), expected, "{url}");
        }
        assert_eq!(s3("minio", "10.0.0.1:9000/minio/bkt/"), expect("bkt", "http://10.0.0.1:9000", "", false));
        assert_eq!(s3("minio", "https://h/bkt?region=eu-1"), expect("bkt", "https://h", "eu-1", false));
        assert_eq!(
            s3("space", "https://b.nyc3.digitaloceanspaces.com"),
            expect("b", "https://nyc3.digitaloceanspaces.com", "nyc3", true)
        );
        assert_eq!(
            s3("wasabi", "https://b.s3.eu-central-1.wasabisys.com"),
            expect("b", "https://s3.eu-central-1.wasabisys.com", "eu-central-1", true)
        );
    }

    #[test]
    fn other_stores_take_the_urls_of_their_drivers() {
        let cases = [
            ("gs", "gs://b", "b", ""),
            ("gs", "b", "b", ""),
            ("gs", "http://localhost:14443/b", "b", "http://localhost:14443"),
            ("wasb", "https://c", "c", "https://{account}.blob.core.windows.net"),
            ("wasb", "https://c.core.chinacloudapi.cn", "c", "https://{account}.blob.core.chinacloudapi.cn"),
            ("wasb", "http://127.0.0.1:10000/acc/c", "c", "http://127.0.0.1:10000/acc"),
            ("oss", "https://b.oss-cn-hangzhou.aliyuncs.com", "b", "https://oss-cn-hangzhou.aliyuncs.com"),
            ("cos", "https://b-125.cos.ap-beijing.myqcloud.com", "b-125", "https://cos.ap-beijing.myqcloud.com"),
            ("obs", "https://b.obs.cn-east-3.myhuaweicloud.com", "b", "https://obs.cn-east-3.myhuaweicloud.com"),
            ("b2", "https://b.backblaze.com", "b", ""),
            ("swift", "http://c.swift.example:8080", "c", "http://swift.example:8080"),
            ("webdav", "http://u:p@dav.example/dir/?ca-certs=x", "", "http://dav.example/dir"),
        ];
        for (storage, url, bucket, endpoint) in cases {
            let place = parse(storage, url, true).unwrap().unwrap();
            assert_eq!((place.bucket.as_str(), place.endpoint.as_str()), (bucket, endpoint), "{storage} {url}");
        }
    }

    #[cfg(feature = "sftp")]
    #[test]
    fn sftp_takes_a_host_and_a_folder() {
        let place = parse("sftp", "me@host:2222:/vol/", true).unwrap().unwrap();
        assert_eq!((place.endpoint.as_str(), place.bucket.as_str()), ("ssh://me@host:2222", "/vol"));
        assert!(parse("sftp", "host:folder", true).is_err() && parse("sftp", "/folder", true).is_err());
    }

    #[cfg(feature = "tos")]
    #[test]
    fn tos_takes_its_region_from_the_host() {
        let place = parse("tos", "https://b.tos-cn-beijing.volces.com", true).unwrap().unwrap();
        assert_eq!(place.endpoint, "https://tos-cn-beijing.volces.com");
        assert_eq!((place.bucket.as_str(), place.region.as_deref()), ("b", Some("cn-beijing")));
    }

    #[test]
    fn a_url_without_a_bucket_is_refused_without_telling_secrets() {
        for (storage, url) in [("minio", "http://u:pass@h:9000"), ("s3", "http://127.0.0.1:9000"), ("oss", "justname")]
        {
            let error = parse(storage, url, true).unwrap_err().to_string();
            assert!(error.contains(storage) && !error.contains("pass"), "{error}");
        }
        assert_eq!(parse("floppy", "a", true).unwrap(), None);
    }

    #[test]
    fn the_query_sets_tls_and_checksum_options() {
        let url =
            "https://h/b?tls-insecure-skip-verify=true&ca-certs=/c.pem&ssl-cert=/a&ssl-key=/k&disable-checksum=True";
        let options = parse("minio", url, true).unwrap().unwrap().options;
        assert!(options.accept_any_certificate && options.no_checksum);
        assert_eq!(options.ca_certs.as_deref(), Some("/c.pem"));
        assert_eq!((options.ssl_cert.as_deref(), options.ssl_key.as_deref()), (Some("/a"), Some("/k")));
    }
}
