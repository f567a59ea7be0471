//! Where the server is and how this program shows itself to it: flags, environment, file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use crate::certs;
use crate::failure::{Failure, Outcome};
use crate::output::Format;
use crate::quantity::parse_duration;

/// Where the control server listens unless it is told otherwise.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7600";

/// How long one request may take unless told otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for an operation unless told otherwise.
const WAIT_TIMEOUT: Duration = Duration::from_secs(600);

/// Flags that every command takes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection and output")]
pub struct GlobalArgs {
    /// Control server, http(s)://HOST:PORT; several (or with commas between) are tried in turn
    /// [default: http://127.0.0.1:7600]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "PENSTOCK_ENDPOINT",
        value_delimiter = ','
    )]
    pub endpoint: Vec<String>,
    /// Certificate of the authority that the server must be from (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "PENSTOCK_CA")]
    pub ca: Option<PathBuf>,
    /// Certificate to show to the server (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "PENSTOCK_CERT")]
    pub cert: Option<PathBuf>,
    /// Private key of --cert (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "PENSTOCK_KEY")]
    pub key: Option<PathBuf>,
    /// Longest to take, like 30s or 10m [default: 30s a request, 10m with --wait]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration, env = "PENSTOCK_TIMEOUT")]
    pub timeout: Option<Duration>,
    /// How to print the answer
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Format,
    /// File with defaults for endpoint, ca, cert, key and timeout
    /// [default: ~/.config/penstock/cli.toml where it exists]
    #[arg(long, global = true, value_name = "FILE", env = "PENSTOCK_CONFIG")]
    pub config: Option<PathBuf>,
}

/// The file. Relative paths in it are relative to its folder.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct File {
    /// One or several addresses.
    endpoint: Option<OneOrMany>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    timeout: Option<String>,
}

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Everything that is needed to reach the server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to try, in order.
    pub endpoints: Vec<String>,
    /// The authority's certificate.
    pub ca: Option<Vec<u8>>,
    /// Certificate and key to show.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// What `--timeout` says, if it does.
    timeout: Option<Duration>,
}

impl Settings {
    /// From the flags (which hold the environment's too) and, where they say nothing, the file.
    pub fn load(args: &GlobalArgs) -> Outcome<Self> {
        let file = load_file(args.config.as_deref())?;
        let given: Vec<String> = args
            .endpoint
            .iter()
            .filter(|e| !e.is_empty())
            .cloned()
            .collect();
        let named = match file.endpoint {
            _ if !given.is_empty() => given,
            Some(OneOrMany::One(endpoint)) => vec![endpoint],
            Some(OneOrMany::Many(endpoints)) if !endpoints.is_empty() => endpoints,
            _ => vec![DEFAULT_ENDPOINT.to_owned()],
        };
        let ca = args.ca.clone().or(file.ca);
        let (cert, key) = (
            args.cert.clone().or(file.cert),
            args.key.clone().or(file.key),
        );
        let tls = ca.is_some();
        let endpoints = named
            .iter()
            .map(|e| endpoint(e, tls))
            .collect::<Outcome<_>>()?;
        let identity = match (&cert, &key) {
            (Some(cert), Some(key)) => {
                let pair = (read(cert, "--cert")?, read(key, "--key")?);
                // The server's refusal is often lost with the connection.
                certs::refuse_expired(cert)?;
                Some(pair)
            }
            (None, None) => None,
            _ => {
                return Err(Failure::usage(
                    "--cert and --key belong together: give both",
                ));
            }
        };
        if identity.is_some() && ca.is_none() {
            let told = "--cert needs --ca, the authority that the server must be from";
            return Err(Failure::usage(told));
        }
        let from_file = file.timeout.as_deref().map(parse_duration).transpose();
        Ok(Self {
            endpoints,
            ca: ca.as_deref().map(|path| read(path, "--ca")).transpose()?,
            identity,
            timeout: args.timeout.or(from_file.map_err(Failure::usage)?),
        })
    }

    /// Of a server on this machine without TLS.
    pub fn local(endpoint: String, timeout: Duration) -> Self {
        Self {
            endpoints: vec![endpoint],
            ca: None,
            identity: None,
            timeout: Some(timeout),
        }
    }

    /// For one request.
    pub fn request_timeout(&self) -> Duration {
        self.timeout.unwrap_or(REQUEST_TIMEOUT)
    }

    /// For waiting on operations.
    pub fn wait_timeout(&self) -> Duration {
        self.timeout.unwrap_or(WAIT_TIMEOUT)
    }
}

/// An address with its scheme, which has to agree with the certificates.
fn endpoint(written: &str, tls: bool) -> Outcome<String> {
    let Some((scheme, rest)) = written.split_once("://") else {
        let scheme = if tls { "https" } else { "http" };
        return endpoint(&format!("{scheme}://{written}"), tls);
    };
    let (host, port) = rest
        .trim_end_matches('/')
        .rsplit_once(':')
        .unwrap_or_default();
    if host.is_empty() || port.parse::<u16>().is_err() || (scheme != "http" && scheme != "https") {
        let told =
            format!("endpoint \"{written}\" is not like {DEFAULT_ENDPOINT}: scheme, host, port");
        return Err(Failure::usage(told));
    }
    if scheme == "http" && tls {
        let told =
            format!("endpoint {written} is without TLS but --ca is given: write https://{rest}");
        return Err(Failure::usage(told));
    }
    if scheme == "https" && !tls {
        let told = format!(
            "endpoint {written} needs --ca, the certificate of the authority the server is from \
             (`penstock certs init` makes one)"
        );
        return Err(Failure::usage(told));
    }
    Ok(format!("{scheme}://{}", rest.trim_end_matches('/')))
}

fn read(path: &Path, flag: &str) -> Outcome<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| Failure::usage(format!("{flag}: cannot read {}: {error}", path.display())))
}

fn load_file(named: Option<&Path>) -> Outcome<File> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => match default_path().filter(|path| path.exists()) {
            Some(path) => path,
            None => return Ok(File::default()),
        },
    };
    let text = read(&path, "--config")?;
    let text = String::from_utf8_lossy(&text);
    let mut file: File = toml::from_str(&text).map_err(|error| {
        Failure::usage(format!(
            "{}: {}",
            path.display(),
            error.to_string().trim_end()
        ))
    })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    for relative in [&mut file.ca, &mut file.cert, &mut file.key]
        .into_iter()
        .flatten()
    {
        *relative = folder.join(&relative);
    }
    Ok(file)
}

fn default_path() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("penstock/cli.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, GlobalArgs) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cli.toml");
        std::fs::write(&path, text).unwrap();
        let args = GlobalArgs {
            config: Some(path),
            ..GlobalArgs::default()
        };
        (dir, args)
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_what_is_usual() {
        let (_dir, mut args) = config("endpoint = [\"a:1\", \"b:2\"]\ntimeout = \"5s\"\n");
        let settings = Settings::load(&args).unwrap();
        assert_eq!(settings.endpoints, ["http://a:1", "http://b:2"]);
        assert_eq!(settings.wait_timeout(), Duration::from_secs(5));
        args.endpoint = vec!["c:3".into()];
        args.timeout = Some(Duration::from_secs(7));
        let settings = Settings::load(&args).unwrap();
        assert_eq!(settings.endpoints, ["http://c:3"]);
        assert_eq!(settings.request_timeout(), Duration::from_secs(7));
        let (_dir, args) = config("");
        assert_eq!(Settings::load(&args).unwrap().endpoints, [DEFAULT_ENDPOINT]);
    }

    #[test]
    fn the_files_paths_are_beside_it() {
        let (dir, args) = config("ca = \"ca.pem\"\nendpoint = \"h:1\"\n");
        assert!(
            Settings::load(&args)
                .unwrap_err()
                .message
                .contains("ca.pem")
        );
        std::fs::write(dir.path().join("ca.pem"), "x").unwrap();
        let settings = Settings::load(&args).unwrap();
        assert_eq!(settings.endpoints, ["https://h:1"]);
        assert_eq!(settings.ca.as_deref(), Some(b"x".as_slice()));
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_the_remedy() {
        let refused = [
            ("endpoint = \"https://h:1\"", "needs --ca"),
            ("endpoint = \"h\"", "scheme, host, port"),
            ("endpoint = \"ftp://h:1\"", "scheme, host, port"),
            ("cert = \"x\"", "give both"),
            ("endpiont = \"h:1\"", "endpiont"),
            ("timeout = \"soon\"", "like 30s"),
        ];
        for (text, told) in refused {
            let (_dir, args) = config(text);
            let failure = Settings::load(&args).unwrap_err();
            assert!(failure.message.contains(told), "{text}: {failure}");
            assert_eq!(failure.exit, crate::failure::Exit::Usage);
        }
        let (dir, mut args) = config("");
        args.ca = Some(dir.path().join("cli.toml"));
        args.endpoint = vec!["http://h:1".into()];
        assert!(
            Settings::load(&args)
                .unwrap_err()
                .message
                .contains("https://h:1")
        );
    }
}
