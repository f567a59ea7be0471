//! Who calls, and who may call what.
//!
//! The role is the organisation of the subject of the client's certificate (`penstock:operator`),
//! the name its common name. A server without TLS listens on loopback only; every caller is `local`
//! then, with all rights of the machine's users.

use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Request};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::fault::{Fault, Result};

/// What the organisation of a certificate starts with.
const PREFIX: &str = "penstock:";

/// What a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads; changes volumes, subsystems, namespaces, hosts and listeners.
    Operator,
    /// All but what agents do.
    Admin,
    /// A node's agent.
    Node,
    /// Another control server; may do nothing here.
    Control,
    /// Without TLS, on this machine: administrator and agent.
    Local,
}

impl Role {
    /// As in certificates, without the prefix.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
            Role::Node => "node",
            Role::Control => "control",
            Role::Local => "local",
        }
    }

    fn parse(text: &str) -> Option<Role> {
        // `local` is no role that a certificate can give.
        [
            Role::Viewer,
            Role::Operator,
            Role::Admin,
            Role::Node,
            Role::Control,
        ]
        .into_iter()
        .find(|role| role.as_str() == text)
    }

    /// Whether this role may do what needs that.
    pub const fn may(self, need: Need) -> bool {
        match need {
            Need::Read => matches!(
                self,
                Role::Viewer | Role::Operator | Role::Admin | Role::Local
            ),
            Need::Operate => matches!(self, Role::Operator | Role::Admin | Role::Local),
            Need::Administer => matches!(self, Role::Admin | Role::Local),
            Need::Agent => matches!(self, Role::Node | Role::Local),
        }
    }
}

/// What a method needs its caller to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To read.
    Read,
    /// To change what hosts get.
    Operate,
    /// To change what machines there are.
    Administer,
    /// To be a node's agent.
    Agent,
}

impl Need {
    /// Roles that may, for messages.
    const fn roles(self) -> &'static str {
        match self {
            Need::Read => "viewer, operator or admin",
            Need::Operate => "operator or admin",
            Need::Administer => "admin",
            Need::Agent => "node",
        }
    }
}

/// A method of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Service without package: `VolumeService`.
    pub service: &'static str,
    /// Method: `CreateVolume`.
    pub name: &'static str,
    /// What its caller must be allowed.
    pub need: Need,
    /// Whether it changes anything, so that each call is audited.
    pub changes: bool,
}

const fn read(service: &'static str, name: &'static str) -> Method {
    Method {
        service,
        name,
        need: Need::Read,
        changes: false,
    }
}

const fn operate(service: &'static str, name: &'static str) -> Method {
    Method {
        service,
        name,
        need: Need::Operate,
        changes: true,
    }
}

const fn administer(service: &'static str, name: &'static str) -> Method {
    Method {
        service,
        name,
        need: Need::Administer,
        changes: true,
    }
}

/// All methods.
pub const METHODS: &[Method] = &[
    Method {
        service: "AgentService",
        name: "Sync",
        need: Need::Agent,
        changes: false,
    },
    read("DeviceService", "GetDevice"),
    read("DeviceService", "ListDevices"),
    administer("DeviceService", "UpdateDevice"),
    operate("HostService", "CreateHost"),
    read("HostService", "GetHost"),
    read("HostService", "ListHosts"),
    operate("HostService", "UpdateHost"),
    operate("HostService", "DeleteHost"),
    read("LayoutService", "GetLayout"),
    operate("ListenerService", "CreateListener"),
    read("ListenerService", "GetListener"),
    read("ListenerService", "ListListeners"),
    operate("ListenerService", "DeleteListener"),
    operate("NamespaceService", "CreateNamespace"),
    read("NamespaceService", "GetNamespace"),
    read("NamespaceService", "ListNamespaces"),
    operate("NamespaceService", "UpdateNamespace"),
    operate("NamespaceService", "DeleteNamespace"),
    administer("NodeService", "CreateNode"),
    read("NodeService", "GetNode"),
    read("NodeService", "ListNodes"),
    administer("NodeService", "UpdateNode"),
    administer("NodeService", "DeleteNode"),
    administer("NodeService", "ResolveOrphan"),
    read("OperationService", "GetOperation"),
    read("OperationService", "ListOperations"),
    read("OperationService", "WaitOperation"),
    operate("SubsystemService", "CreateSubsystem"),
    read("SubsystemService", "GetSubsystem"),
    read("SubsystemService", "ListSubsystems"),
    operate("SubsystemService", "UpdateSubsystem"),
    operate("SubsystemService", "DeleteSubsystem"),
    operate("VolumeService", "CreateVolume"),
    read("VolumeService", "GetVolume"),
    read("VolumeService", "ListVolumes"),
    operate("VolumeService", "UpdateVolume"),
    operate("VolumeService", "DeleteVolume"),
    read("WatchService", "Watch"),
];

impl Method {
    /// The method of this name; names are unique over all services.
    pub fn find(name: &str) -> Option<&'static Method> {
        METHODS.iter().find(|method| method.name == name)
    }
}

/// Who calls. In the extensions of a request where somebody has found it out already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name in the certificate; `local` without TLS.
    pub name: String,
    /// Role in the certificate.
    pub role: Role,
}

impl Caller {
    /// Who calls without TLS.
    pub fn local() -> Caller {
        Caller {
            name: "local".to_owned(),
            role: Role::Local,
        }
    }

    /// Whom a certificate (in DER) names.
    ///
    /// # Errors
    /// UNAUTHENTICATED where it names nobody or a role that does not exist.
    pub fn of_certificate(der: &[u8]) -> Result<Caller> {
        let (_, certificate) = X509Certificate::from_der(der)
            .map_err(|error| unauthenticated(&format!("it cannot be read ({error})")))?;
        let subject = certificate.subject();
        let name = subject
            .iter_common_name()
            .find_map(|attribute| attribute.as_str().ok())
            .filter(|name| !name.is_empty())
            .ok_or_else(|| unauthenticated("its subject has no common name"))?;
        let roles: Vec<&str> = subject
            .iter_organization()
            .filter_map(|attribute| attribute.as_str().ok())
            .filter_map(|organization| organization.strip_prefix(PREFIX))
            .collect();
        let role = match roles.as_slice() {
            [role] => Role::parse(role)
                .ok_or_else(|| unauthenticated(&format!("its role {role:?} does not exist")))?,
            [] => {
                return Err(unauthenticated(
                    "its subject has no organisation with a role",
                ));
            }
            _ => return Err(unauthenticated("its subject has several roles")),
        };
        Ok(Caller {
            name: name.to_owned(),
            role,
        })
    }

    /// Who sent this request: whom its extensions name, else its TLS certificate; `local` where it
    /// did not come over TLS.
    ///
    /// # Errors
    /// UNAUTHENTICATED where it came over TLS without a good certificate.
    pub fn of<T>(request: &Request<T>) -> Result<Caller> {
        if let Some(caller) = request.extensions().get::<Caller>() {
            return Ok(caller.clone());
        }
        let tls = request
            .extensions()
            .get::<TlsConnectInfo<TcpConnectInfo>>()
            .map(TlsConnectInfo::peer_certs);
        match tls {
            None => Ok(Caller::local()),
            Some(certificates) => {
                let certificates = certificates.unwrap_or_default();
                let own = certificates
                    .first()
                    .ok_or_else(|| unauthenticated("there is none"))?;
                Caller::of_certificate(own)
            }
        }
    }

    /// Whether this caller may call the method.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn may_call(&self, method: &Method) -> Result<()> {
        if self.role.may(method.need) {
            return Ok(());
        }
        Err(Fault::new(
            Code::PermissionDenied,
            "ROLE_TOO_LOW",
            format!(
                "{} has the role {} and may not call {}.{}; use a certificate with the role {}",
                self.name,
                self.role.as_str(),
                method.service,
                method.name,
                method.need.roles()
            ),
        )
        .with("role", self.role.as_str())
        .with("method", method.name))
    }

    /// Whether this caller may be the agent of the node with this id.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn may_be_node(&self, node: &str) -> Result<()> {
        match self.role {
            Role::Local => Ok(()),
            Role::Node if self.name == node => Ok(()),
            _ => Err(Fault::new(
                Code::PermissionDenied,
                "WRONG_NODE",
                format!(
                    "{} ({}) may not speak for nodes/{node}; give the agent a certificate with the role node and the name {node}, or the node the name of its certificate",
                    self.name,
                    self.role.as_str()
                ),
            )
            .with("node", node)),
        }
    }
}

fn unauthenticated(why: &str) -> Fault {
    Fault::new(
        Code::Unauthenticated,
        "BAD_CERTIFICATE",
        format!(
            "no caller can be read from the client's certificate: {why}; use one made by `penstock certs`, whose subject has the organisation penstock:ROLE and a common name"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use prost_types::FileDescriptorSet;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn certificate(organization: Option<&str>, name: Option<&str>) -> Vec<u8> {
        let mut subject = DistinguishedName::new();
        if let Some(organization) = organization {
            subject.push(DnType::OrganizationName, organization);
        }
        if let Some(name) = name {
            subject.push(DnType::CommonName, name);
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn every_method_of_the_api_has_its_role() {
        let set = FileDescriptorSet::decode(penstock_api::FILE_DESCRIPTOR_SET).unwrap();
        let mut described = Vec::new();
        for service in set.file.iter().flat_map(|file| &file.service) {
            for method in &service.method {
                described.push((service.name().to_owned(), method.name().to_owned()));
            }
        }
        let mut known: Vec<_> = METHODS
            .iter()
            .map(|method| (method.service.to_owned(), method.name.to_owned()))
            .collect();
        described.sort();
        known.sort();
        assert_eq!(known, described);
        // `find` looks by the name alone.
        let mut names: Vec<_> = METHODS.iter().map(|method| method.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METHODS.len());
    }

    #[test]
    fn needs_follow_from_what_methods_do() {
        for method in METHODS {
            let reads = ["Get", "List", "Wait", "Watch"]
                .iter()
                .any(|verb| method.name.starts_with(verb));
            let need = match method.service {
                "AgentService" => Need::Agent,
                _ if reads => Need::Read,
                "NodeService" | "DeviceService" => Need::Administer,
                _ => Need::Operate,
            };
            assert_eq!(method.need, need, "{}", method.name);
            assert_eq!(
                method.changes,
                matches!(need, Need::Operate | Need::Administer)
            );
        }
    }

    #[test]
    fn roles_have_their_rights_and_no_others() {
        use Need::{Administer, Agent, Operate, Read};
        let table: &[(Role, &[Need])] = &[
            (Role::Viewer, &[Read]),
            (Role::Operator, &[Read, Operate]),
            (Role::Admin, &[Read, Operate, Administer]),
            (Role::Node, &[Agent]),
            (Role::Control, &[]),
            (Role::Local, &[Read, Operate, Administer, Agent]),
        ];
        for (role, rights) in table {
            for need in [Read, Operate, Administer, Agent] {
                assert_eq!(role.may(need), rights.contains(&need), "{role:?} {need:?}");
            }
        }
        let viewer = Caller {
            name: "v".to_owned(),
            role: Role::Viewer,
        };
        let fault = viewer
            .may_call(Method::find("CreateVolume").unwrap())
            .unwrap_err();
        assert_eq!(fault.code, Code::PermissionDenied);
        assert!(fault.message.contains("operator or admin"));
    }

    #[test]
    fn certificates_name_their_callers() {
        let caller =
            Caller::of_certificate(&certificate(Some("penstock:operator"), Some("alice"))).unwrap();
        assert_eq!(
            (caller.name.as_str(), caller.role),
            ("alice", Role::Operator)
        );
        for (organization, name) in [
            (None, Some("alice")),
            (Some("penstock:operator"), None),
            (Some("penstock:root"), Some("alice")),
            (Some("penstock:local"), Some("alice")),
            (Some("operator"), Some("alice")),
        ] {
            let fault = Caller::of_certificate(&certificate(organization, name)).unwrap_err();
            assert_eq!(
                fault.code,
                Code::Unauthenticated,
                "{organization:?} {name:?}"
            );
        }
        let fault = Caller::of_certificate(b"no certificate").unwrap_err();
        assert_eq!(fault.code, Code::Unauthenticated);
    }

    #[test]
    fn agents_speak_for_their_own_node() {
        let node = Caller {
            name: "n1".to_owned(),
            role: Role::Node,
        };
        assert!(node.may_be_node("n1").is_ok());
        assert_eq!(node.may_be_node("n2").unwrap_err().reason, "WRONG_NODE");
        assert!(Caller::local().may_be_node("n2").is_ok());
        let admin = Caller {
            name: "n1".to_owned(),
            role: Role::Admin,
        };
        assert!(admin.may_be_node("n1").is_err());
    }

    #[test]
    fn a_request_without_tls_is_local() {
        assert_eq!(Caller::of(&Request::new(())).unwrap(), Caller::local());
        let mut request = Request::new(());
        let viewer = Caller {
            name: "v".to_owned(),
            role: Role::Viewer,
        };
        request.extensions_mut().insert(viewer.clone());
        assert_eq!(Caller::of(&request).unwrap(), viewer);
    }
}
