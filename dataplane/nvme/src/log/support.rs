//! Which namespaces changed, and which commands, features and log pages there are
//! (Base 2.1, 5.1.12.1.1, 5.1.12.1.5, 5.1.12.1.6 and 5.1.12.1.18).

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::Le32;

/// Changed Attached Namespace List log page (Base 2.1, 5.1.12.1.5).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ChangedNamespaceList {
    /// Identifiers in rising order, filled with 0; FFFFFFFFh alone where more than 1024 changed.
    pub nsid: [Le32; 1024],
}
layout!(ChangedNamespaceList, 4096, nsid @ 0);

impl ChangedNamespaceList {
    /// From the identifiers that changed, which must rise.
    pub fn new(nsids: impl IntoIterator<Item = u32>) -> ChangedNamespaceList {
        let mut list = ChangedNamespaceList::new_zeroed();
        let mut nsids = nsids.into_iter();
        for (to, nsid) in list.nsid.iter_mut().zip(nsids.by_ref()) {
            *to = Le32::new(nsid);
        }
        if nsids.next().is_some() {
            list = ChangedNamespaceList::new_zeroed();
            list.nsid[0] = Le32::new(u32::MAX);
        }
        list
    }
}

/// Commands Supported and Effects log page (Base 2.1, 5.1.12.1.6).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct EffectsLog {
    /// Of admin opcodes: `EFFECT_*`.
    pub admin: [Le32; 256],
    /// Of I/O opcodes of the command set asked for: `EFFECT_*`.
    pub io: [Le32; 256],
    /// Reserved.
    pub reserved2048: [u8; 2048],
}
layout!(EffectsLog, 4096, admin @ 0, io @ 1024, reserved2048 @ 2048);

/// Effect: supported.
pub const EFFECT_SUPPORTED: u32 = 1 << 0;
/// Effect: user data may change.
pub const EFFECT_CONTENT: u32 = 1 << 1;
/// Effect: a namespace's capabilities may change.
pub const EFFECT_NAMESPACE: u32 = 1 << 2;
/// Effect: the namespace inventory may change.
pub const EFFECT_INVENTORY: u32 = 1 << 3;
/// Effect: the controller's capabilities may change.
pub const EFFECT_CONTROLLER: u32 = 1 << 4;

/// Feature Identifiers Supported and Effects log page (Base 2.1, 5.1.12.1.18).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct FeatureEffectsLog {
    /// Of each feature identifier: `EFFECT_SUPPORTED` and the same bits 1 to 4, scope in bits
    /// 31:20 ([`FEATURE_SCOPE_NAMESPACE`], [`FEATURE_SCOPE_CONTROLLER`]).
    pub features: [Le32; 256],
}
layout!(FeatureEffectsLog, 1024, features @ 0);

/// Scope of a feature: a namespace.
pub const FEATURE_SCOPE_NAMESPACE: u32 = 1 << 20;
/// Scope of a feature: a controller.
pub const FEATURE_SCOPE_CONTROLLER: u32 = 1 << 21;

/// Supported Log Pages log page (Base 2.1, 5.1.12.1.1).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SupportedLogPages {
    /// Of each log page identifier: bit 0 supported, bit 1 index offsets supported, bits 31:16
    /// specific to the page.
    pub pages: [Le32; 256],
}
layout!(SupportedLogPages, 1024, pages @ 0);

/// Entry of [`SupportedLogPages`]: the page is supported.
pub const LOG_SUPPORTED: u32 = 1 << 0;
