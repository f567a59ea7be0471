//! Settings of the transport, with their limits.

/// Settings of the NVMe/TCP transport. [`TcpConfig::default`] suits most; [`TcpConfig::check`]
/// tells whether values are inside their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Most data in an I/O command capsule, in bytes: what Identify's IOCCSZ announces (TCP 1.1,
    /// 3.3.1). 0 to 1 MiB, a multiple of 16. Admin and Connect capsules may always carry 8 KiB.
    pub in_capsule_data_bytes: u32,
    /// Most data in one H2CData PDU, in bytes: MAXH2CDATA of ICResp. 4 KiB to 16 MiB, a multiple
    /// of 4 (TCP 1.1, 3.6.2.3).
    pub h2c_data_max_bytes: u32,
    /// Most data one R2T asks for, in bytes. 4 KiB to 16 MiB, a multiple of 4. A host that allows
    /// only one R2T at a time waits a round trip for each piece of this size.
    pub r2t_max_bytes: u32,
    /// Most R2Ts outstanding for a command; the host's MAXR2T is honoured as well. 1 to 4.
    pub r2t_outstanding_max: u8,
    /// Most data in one C2HData PDU, in bytes; longer payloads are split. 4 KiB to 1 GiB, a
    /// multiple of 4.
    pub c2h_data_max_bytes: u32,
    /// Whether a successful read's C2HData carries the success flag and no response capsule follows
    /// (TCP 1.1, 3.6.2.9). With SQ flow control on, a response still goes out every quarter of the
    /// queue, so that the host learns of the head pointer.
    pub c2h_success: bool,
    /// Whether a header digest is granted to hosts that ask for it.
    pub header_digest: bool,
    /// Whether a data digest is granted to hosts that ask for it.
    pub data_digest: bool,
    /// From how many bytes on the rest of a transfer is received straight into payload memory
    /// instead of through a shared receive buffer, in bytes. 512 or more.
    pub direct_receive_min_bytes: u32,
    /// How many commands may be outstanding before Connect has told the queue's size. 1 to 64.
    pub commands_before_connect_max: u16,
    /// While more than this is queued for sending, in bytes, no further command is taken from the
    /// connection: a host that does not read cannot hoard payload memory. 64 KiB or more.
    pub send_queue_max_bytes: u32,
    /// While commands that move data and replies not sent yet hold more payload memory than this,
    /// in bytes, further such commands of the connection wait before they get any, so that one host
    /// cannot take all of it. 64 KiB or more.
    pub payload_max_bytes: u32,
    /// While in-capsule data that no command has taken up yet exceeds this, in bytes, no further
    /// command is taken from the connection. 8 KiB or more.
    pub capsule_stash_max_bytes: u32,
    /// How long a new connection may take to send its ICReq, in milliseconds. 100 or more.
    pub icreq_timeout_ms: u32,
    /// How long a connection may take from ICReq to a successful Connect, in milliseconds.
    /// 100 or more.
    pub connect_timeout_ms: u32,
    /// How long a host may take to finish a transfer it owes (the rest of a PDU, the data of an
    /// R2T), in milliseconds. 100 or more.
    pub transfer_timeout_ms: u32,
    /// How long a host may refuse to read what is sent to it, in milliseconds. 100 or more.
    pub send_timeout_ms: u32,
    /// How long a closed connection stays so that the host can read the last PDU, in milliseconds.
    pub linger_ms: u32,
}

impl Default for TcpConfig {
    fn default() -> TcpConfig {
        TcpConfig {
            in_capsule_data_bytes: 8 << 10,
            h2c_data_max_bytes: 256 << 10,
            r2t_max_bytes: 1 << 20,
            r2t_outstanding_max: 4,
            c2h_data_max_bytes: 1 << 20,
            c2h_success: true,
            header_digest: true,
            data_digest: true,
            direct_receive_min_bytes: 16 << 10,
            commands_before_connect_max: 4,
            send_queue_max_bytes: 4 << 20,
            payload_max_bytes: 16 << 20,
            capsule_stash_max_bytes: 64 << 10,
            icreq_timeout_ms: 10_000,
            connect_timeout_ms: 10_000,
            transfer_timeout_ms: 30_000,
            send_timeout_ms: 30_000,
            linger_ms: 1_000,
        }
    }
}

/// A setting outside its limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is {value}; use {limits}")]
pub struct ConfigError {
    /// The field of [`TcpConfig`].
    pub key: &'static str,
    /// What it was.
    pub value: u64,
    /// What is allowed.
    pub limits: &'static str,
}

impl TcpConfig {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first setting outside its limits.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_pieces()?;
        self.check_counts()?;
        let times = [
            ("icreq_timeout_ms", self.icreq_timeout_ms),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("transfer_timeout_ms", self.transfer_timeout_ms),
            ("send_timeout_ms", self.send_timeout_ms),
        ];
        for (key, value) in times {
            limit(key, value, value >= 100, "100 or more")?;
        }
        Ok(())
    }

    fn check_pieces(&self) -> Result<(), ConfigError> {
        let capsule = self.in_capsule_data_bytes;
        let good = capsule <= 1 << 20 && capsule.is_multiple_of(16);
        limit(
            "in_capsule_data_bytes",
            capsule,
            good,
            "0 to 1048576, a multiple of 16",
        )?;
        let pieces = [
            ("h2c_data_max_bytes", self.h2c_data_max_bytes),
            ("r2t_max_bytes", self.r2t_max_bytes),
        ];
        for (key, value) in pieces {
            let good = (4096..=16 << 20).contains(&value) && value.is_multiple_of(4);
            limit(key, value, good, "4096 to 16777216, a multiple of 4")?;
        }
        let data = self.c2h_data_max_bytes;
        let good = (4096..=1 << 30).contains(&data) && data.is_multiple_of(4);
        limit(
            "c2h_data_max_bytes",
            data,
            good,
            "4096 to 1073741824, a multiple of 4",
        )
    }

    fn check_counts(&self) -> Result<(), ConfigError> {
        let r2ts = u32::from(self.r2t_outstanding_max);
        limit(
            "r2t_outstanding_max",
            r2ts,
            (1..=4).contains(&r2ts),
            "1 to 4",
        )?;
        let early = u32::from(self.commands_before_connect_max);
        limit(
            "commands_before_connect_max",
            early,
            (1..=64).contains(&early),
            "1 to 64",
        )?;
        let direct = self.direct_receive_min_bytes;
        limit(
            "direct_receive_min_bytes",
            direct,
            direct >= 512,
            "512 or more",
        )?;
        let stash = self.capsule_stash_max_bytes;
        limit(
            "capsule_stash_max_bytes",
            stash,
            stash >= 8 << 10,
            "8192 or more",
        )?;
        let queue = self.send_queue_max_bytes;
        limit(
            "send_queue_max_bytes",
            queue,
            queue >= 64 << 10,
            "65536 or more",
        )?;
        let payload = self.payload_max_bytes;
        limit(
            "payload_max_bytes",
            payload,
            payload >= 64 << 10,
            "65536 or more",
        )
    }
}

fn limit(
    key: &'static str,
    value: u32,
    good: bool,
    limits: &'static str,
) -> Result<(), ConfigError> {
    if good {
        return Ok(());
    }
    Err(ConfigError {
        key,
        value: u64::from(value),
        limits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_inside_their_limits() {
        assert_eq!(TcpConfig::default().check(), Ok(()));
    }

    #[test]
    fn each_limit_is_kept() {
        let bad: [fn(&mut TcpConfig); 14] = [
            |c| c.in_capsule_data_bytes = 8193,
            |c| c.h2c_data_max_bytes = 4095,
            |c| c.r2t_max_bytes = 0,
            |c| c.r2t_outstanding_max = 5,
            |c| c.c2h_data_max_bytes = 4098,
            |c| c.direct_receive_min_bytes = 0,
            |c| c.commands_before_connect_max = 0,
            |c| c.send_queue_max_bytes = 0,
            |c| c.payload_max_bytes = 1,
            |c| c.capsule_stash_max_bytes = 0,
            |c| c.icreq_timeout_ms = 0,
            |c| c.connect_timeout_ms = 99,
            |c| c.transfer_timeout_ms = 0,
            |c| c.send_timeout_ms = 0,
        ];
        for (i, spoil) in bad.iter().enumerate() {
            let mut config = TcpConfig::default();
            spoil(&mut config);
            let error = config.check().expect_err("limit");
            assert!(error.to_string().contains(error.key), "{i}: {error}");
        }
    }
}
