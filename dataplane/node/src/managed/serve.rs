//! Subsystems and namespaces that control asks for.

use penstock_api::v1::{DesiredNamespace, DesiredSubsystem};
use penstock_block::BlockDevice;
use penstock_subsystem::{ConfigError, NamespaceConfig, SubsystemConfig};
use penstock_units::Nsid;
use std::sync::Arc;
use uuid::Uuid;

use super::{ManagedError, ManagedNamespace, ManagedSubsystem};
use crate::node::Node;

fn refused(error: &ConfigError) -> ManagedError {
    let reason = match error {
        ConfigError::SubsystemExists(_) => "NqnConflict",
        ConfigError::NamespaceExists { .. } => "NsidConflict",
        ConfigError::NoSubsystem(_) | ConfigError::NoNamespace { .. } => "Missing",
        ConfigError::NamespaceLimit { .. }
        | ConfigError::Nqn { .. }
        | ConfigError::Value { .. } => "Invalid",
    };
    ManagedError::new(reason, error.to_string())
}

impl Node {
    /// Serves a subsystem, or changes which hosts may use it; those whose access ends are
    /// disconnected. What else differs from what is served stays as it is: the API does not let it
    /// change.
    ///
    /// # Errors
    /// `NqnConflict` where the configuration file or another subsystem of control has the NQN;
    /// `Invalid`.
    pub fn serve_subsystem(&mut self, wanted: &DesiredSubsystem) -> Result<(), ManagedError> {
        let mut hosts = wanted.host_nqns.clone();
        hosts.sort_unstable();
        let any = wanted.allow_any_host;
        if let Some(known) = self.managed.subsystems.get_mut(&wanted.uid) {
            if (known.allow_any_host, &known.hosts) != (any, &hosts) {
                let set = self.target.set_hosts(&known.nqn, any, &hosts);
                set.map_err(|error| refused(&error))?;
                (known.allow_any_host, known.hosts) = (any, hosts);
                tracing::info!(subsystem = known.nqn, "hosts changed");
            }
            return Ok(());
        }
        self.target
            .add_subsystem(subsystem_config(wanted, &hosts)?)
            .map_err(|error| refused(&error))?;
        tracing::info!(subsystem = wanted.nqn, "serving");
        let subsystem = ManagedSubsystem {
            nqn: wanted.nqn.clone(),
            allow_any_host: any,
            hosts,
        };
        self.managed
            .subsystems
            .insert(wanted.uid.clone(), subsystem);
        Ok(())
    }

    /// Serves a subsystem no longer: its hosts are disconnected. Its namespaces go with it. One that
    /// is not served is no error.
    ///
    /// # Errors
    /// None at present; callers must be ready for one.
    pub fn remove_subsystem(&mut self, uid: &str) -> Result<(), ManagedError> {
        let namespaces = self.managed.namespaces.iter();
        let of_it = namespaces.filter(|(_, served)| served.subsystem_uid == uid);
        for namespace in of_it.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
            self.remove_namespace(&namespace)?;
        }
        if let Some(gone) = self.managed.subsystems.remove(uid) {
            // It may only be missing, and missing is what is asked for.
            let _ = self.target.remove_subsystem(&gone.nqn);
            tracing::info!(subsystem = gone.nqn, "no longer served");
        }
        Ok(())
    }

    /// Serves a volume as a namespace; hosts are told. Where one is served that differs from it in
    /// identity and name only, it takes that over and hosts notice nothing.
    ///
    /// # Errors
    /// `SubsystemMissing`, `VolumeMissing`; `NsidConflict`; `VolumeInUse` where another namespace has
    /// the volume; `Invalid`.
    pub fn serve_namespace(&mut self, wanted: &DesiredNamespace) -> Result<(), ManagedError> {
        let invalid = |what: String| ManagedError::new("Invalid", what);
        let nsid = Nsid::new(wanted.nsid)
            .ok_or_else(|| invalid(format!("{} is no namespace identifier", wanted.nsid)))?;
        let uuid = Uuid::parse_str(&wanted.uuid)
            .map_err(|error| invalid(format!("{:?} is no UUID: {error}", wanted.uuid)))?
            .into_bytes();
        let namespace = ManagedNamespace {
            subsystem_uid: wanted.subsystem_uid.clone(),
            volume_uid: wanted.volume_uid.clone(),
            nsid,
            uuid,
        };
        if let Some(known) = self.managed.namespaces.get(&wanted.uid) {
            return known.check_same(&namespace, &wanted.name);
        }
        let mut served = self.managed.namespaces.iter();
        if let Some((uid, _)) = served.find(|(_, other)| other.key() == namespace.key()) {
            let uid = uid.clone();
            self.managed.namespaces.remove(&uid);
            tracing::info!(namespace = wanted.name, "takes over what is served");
            let new = wanted.uid.clone();
            self.managed.namespaces.insert(new, namespace);
            return Ok(());
        }
        let nqn = self.managed_nqn(&wanted.subsystem_uid)?;
        let mut others = self.managed.namespaces.values();
        if others.any(|other| other.volume_uid == wanted.volume_uid) {
            let message = format!("{}: another namespace serves its volume", wanted.name);
            return Err(ManagedError::new("VolumeInUse", message));
        }
        let open = self.managed.volume(&wanted.volume_uid)?;
        let device = Arc::clone(open.device()) as Arc<dyn BlockDevice>;
        let identity = NamespaceConfig {
            uuid,
            nguid: uuid,
            ..NamespaceConfig::default()
        };
        self.target
            .add_namespace(&nqn, Some(nsid), identity, device)
            .map_err(|error| refused(&error))?;
        tracing::info!(subsystem = nqn, %nsid, volume = open.name(), "serving");
        self.managed
            .namespaces
            .insert(wanted.uid.clone(), namespace);
        Ok(())
    }

    /// Takes a namespace from the hosts: I/O in flight on it finishes, later I/O is refused. One that
    /// is not served is no error.
    ///
    /// # Errors
    /// None at present; callers must be ready for one.
    pub fn remove_namespace(&mut self, uid: &str) -> Result<(), ManagedError> {
        let Some(gone) = self.managed.namespaces.remove(uid) else {
            return Ok(());
        };
        let Ok(nqn) = self.managed_nqn(&gone.subsystem_uid) else {
            return Ok(());
        };
        let subsystem = self.target.subsystem(&nqn);
        if let Some(served) = subsystem.and_then(|known| known.namespace(gone.nsid)) {
            self.managed.retired.push(Arc::downgrade(&served));
        }
        // It may only be missing, and missing is what is asked for.
        let _ = self.target.remove_namespace(&nqn, gone.nsid);
        tracing::info!(subsystem = nqn, nsid = %gone.nsid, "namespace no longer served");
        Ok(())
    }

    /// Size in bytes that hosts see of a namespace; `None` where it is not served.
    pub fn namespace_size(&self, uid: &str) -> Option<u64> {
        let served = self.managed.namespaces.get(uid)?;
        self.volume_size(&served.volume_uid)
    }

    /// Tells the hosts of a volume's namespaces that its size changed.
    pub(super) fn tell_of_size(&self, volume_uid: &str) {
        let served = self.managed.namespaces.values();
        for namespace in served.filter(|served| served.volume_uid == volume_uid) {
            let told = self
                .managed_nqn(&namespace.subsystem_uid)
                .map(|nqn| self.target.namespace_resized(&nqn, namespace.nsid));
            if let Ok(Err(error)) = told {
                tracing::warn!(%error, "hosts could not be told of a new size");
            }
        }
    }

    fn managed_nqn(&self, uid: &str) -> Result<String, ManagedError> {
        let known = self.managed.subsystems.get(uid);
        known.map(|known| known.nqn.clone()).ok_or_else(|| {
            ManagedError::new(
                "SubsystemMissing",
                format!("subsystem {uid} is not served here"),
            )
        })
    }
}

fn subsystem_config(
    wanted: &DesiredSubsystem,
    hosts: &[String],
) -> Result<SubsystemConfig, ManagedError> {
    let cntlid = |id: u32| {
        u16::try_from(id).map_err(|_| {
            let message = format!("{}: {id} is no controller identifier", wanted.nqn);
            ManagedError::new("Invalid", message)
        })
    };
    Ok(SubsystemConfig {
        model: wanted.model.clone(),
        allow_any_host: wanted.allow_any_host,
        hosts: hosts.to_vec(),
        namespaces_max: wanted.namespaces_max,
        cntlid_min: cntlid(wanted.controller_id_min)?,
        cntlid_max: cntlid(wanted.controller_id_max)?,
        ..SubsystemConfig::new(&wanted.nqn, &wanted.serial)
    })
}

impl ManagedNamespace {
    /// What it serves, and as what.
    fn key(&self) -> (&str, &str, Nsid, &[u8; 16]) {
        (&self.subsystem_uid, &self.volume_uid, self.nsid, &self.uuid)
    }

    fn check_same(&self, wanted: &ManagedNamespace, name: &str) -> Result<(), ManagedError> {
        if self.key() == wanted.key() {
            return Ok(());
        }
        let message = format!("{name} is served with another volume or identity; remove it first");
        Err(ManagedError::new("NamespaceDiffers", message))
    }
}
