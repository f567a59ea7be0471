//! Checks of `[control]`.

use std::path::PathBuf;
use std::time::Duration;

use penstock_api::names;
use toml::Spanned;

use super::super::schema::{self, Key};
use super::super::{ControlEndpoint, ControlSettings, TlsFiles};
use super::{Checker, offset};

impl Checker<'_> {
    pub(super) fn control(
        &mut self,
        given: Option<&Spanned<schema::Control>>,
        node: &schema::Node,
    ) -> Option<ControlSettings> {
        let table = given?;
        let given = table.get_ref();
        self.name_known_to_control(node);
        let endpoints = self.endpoints(table);
        let tls = self.tls_files(table, &endpoints);
        let key = "control.reconnect_backoff_max_ms";
        let ms = self.number(key, &given.reconnect_backoff_max_ms, 2_000, 100..=60_000);
        Some(ControlSettings {
            endpoints,
            state_directory: self.state_directory(table),
            tls,
            tls_server_name: given
                .tls_server_name
                .as_ref()
                .map(|name| name.get_ref().clone())
                .filter(|name| !name.is_empty()),
            reconnect_backoff_max: Duration::from_millis(ms),
        })
    }

    /// Control knows the node by the name of its configuration.
    fn name_known_to_control(&mut self, node: &schema::Node) {
        let name = node.name.as_ref().map_or("penstock", |name| name.get_ref());
        if let Err(error) = names::check_id(name) {
            let message = error.to_string();
            let (what, remedy) = message.split_once("; ").unwrap_or((&message, "rename it"));
            let at = node.name.as_ref().and_then(offset);
            let what = format!("control could not know the node by this name: {what}");
            self.refuse(at, "node.name", what, remedy);
        }
    }

    fn endpoints(&mut self, table: &Spanned<schema::Control>) -> Vec<ControlEndpoint> {
        let key = "control.endpoints";
        let given = table.get_ref().endpoints.as_ref();
        let texts = given.map_or(&[][..], |list| list.get_ref());
        if texts.is_empty() {
            let at = given.map_or_else(|| offset(table), offset);
            let what = "no address of control is given".to_owned();
            let remedy = "add endpoints = [\"https://control.example:7600\"], or remove [control]";
            self.refuse(at, key, what, remedy);
        }
        let mut endpoints: Vec<ControlEndpoint> = Vec::new();
        for text in texts {
            match ControlEndpoint::parse(text.get_ref()) {
                Ok(endpoint) if endpoints.contains(&endpoint) => {
                    let what = format!("{endpoint} is named twice");
                    self.refuse(offset(text), key, what, "name every address once");
                }
                Ok(endpoint) => endpoints.push(endpoint),
                Err((what, remedy)) => self.refuse(offset(text), key, what, remedy),
            }
        }
        endpoints
    }

    fn state_directory(&mut self, table: &Spanned<schema::Control>) -> PathBuf {
        match &table.get_ref().state_directory {
            Some(path) if !path.get_ref().is_empty() => PathBuf::from(path.get_ref()),
            other => {
                let at = other.as_ref().map_or_else(|| offset(table), offset);
                let what = "there is no folder for what the node must remember".to_owned();
                let remedy = "add state_directory = \"/var/lib/penstock\", on a disk that outlives \
                              the process";
                self.refuse(at, "control.state_directory", what, remedy);
                PathBuf::new()
            }
        }
    }

    /// All three files, or none where no endpoint needs them.
    fn tls_files(
        &mut self,
        table: &Spanned<schema::Control>,
        endpoints: &[ControlEndpoint],
    ) -> Option<TlsFiles> {
        let given = table.get_ref();
        let files: [(&str, &Key<String>); 3] = [
            ("control.tls_ca_file", &given.tls_ca_file),
            ("control.tls_certificate_file", &given.tls_certificate_file),
            ("control.tls_key_file", &given.tls_key_file),
        ];
        let path = |key: &Key<String>| {
            key.as_ref()
                .map(|path| path.get_ref().clone())
                .filter(|path| !path.is_empty())
        };
        if let [Some(ca), Some(certificate), Some(key)] = files.map(|(_, key)| path(key)) {
            return Some(TlsFiles {
                ca: ca.into(),
                certificate: certificate.into(),
                key: key.into(),
            });
        }
        let any = files.iter().any(|(_, key)| path(key).is_some());
        let needed = endpoints.iter().any(ControlEndpoint::is_tls);
        if any || needed {
            let lacking = files.iter().filter(|(_, key)| path(key).is_none());
            for (key, _) in lacking.collect::<Vec<_>>() {
                let what = "the file is not named: TLS with control takes three".to_owned();
                let remedy = "give tls_ca_file, tls_certificate_file and tls_key_file; `penstock \
                              certs init` makes them for a lab";
                self.refuse(offset(table), key, what, remedy);
            }
        }
        None
    }
}
