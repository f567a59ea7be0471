//! What the model has seen.

/// Counts since the model was made.
#[derive(Clone, Debug)]
pub struct SoftStats {
    /// Admin commands executed, by opcode.
    pub admin: [u64; 256],
    /// I/O commands executed, by opcode.
    pub io: [u64; 256],
    /// Completions posted.
    pub completions: u64,
    /// Completions with a status other than success.
    pub failures: u64,
    /// Writes of submission queue tail doorbells that were seen; several between two looks count
    /// once.
    pub sq_doorbells: u64,
    /// Writes of completion queue head doorbells that were seen.
    pub cq_doorbells: u64,
    /// New tails seen in the shadow doorbells without a write of the doorbell.
    pub shadow_tails: u64,
    /// Bytes of commands' data moved to or from host memory.
    pub host_bytes: u64,
    /// Bytes of commands' data moved to or from controller memory.
    pub own_bytes: u64,
    /// Submission queue entries fetched from controller memory.
    pub own_fetches: u64,
    /// Commands fetched, all queues.
    pub fetched: u64,
    /// Times the controller became ready.
    pub enabled: u64,
}

impl Default for SoftStats {
    fn default() -> SoftStats {
        SoftStats {
            admin: [0; 256],
            io: [0; 256],
            completions: 0,
            failures: 0,
            sq_doorbells: 0,
            cq_doorbells: 0,
            shadow_tails: 0,
            host_bytes: 0,
            own_bytes: 0,
            own_fetches: 0,
            fetched: 0,
            enabled: 0,
        }
    }
}
