//! `penstock operation`.

use clap::{Args, Subcommand};

use super::Session;
use super::verbs::{Describe, Get, Watch};
use crate::failure::Outcome;
use crate::name::Kind;
use crate::object::Object;
use crate::output::{self, Format, line};
use crate::wait::wait;

const KIND: Kind = Kind::Operation;

/// What can be done with operations.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Print operations by name
    Get(Get),
    /// Print operations that run or ended within 24 hours
    List(ListOperations),
    /// Tell everything about operations
    Describe(Describe),
    /// Wait until operations have ended, at most --timeout; fails where one failed
    Wait(Wait),
    /// Print changes of operations as they happen
    Watch(Watch),
}

/// `operation list`.
#[derive(Args, Debug)]
pub struct ListOperations {
    /// Only those that have not ended
    #[arg(long)]
    running: bool,
    /// Only those of this resource, by full name: volumes/v1
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

/// `operation wait`.
#[derive(Args, Debug)]
pub struct Wait {
    /// Names, short or full
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Verb {
    /// Does it.
    pub async fn run(self, session: &Session) -> Outcome {
        match self {
            Verb::Get(args) => args.run(KIND, session).await,
            Verb::List(args) => args.run(session).await,
            Verb::Describe(args) => args.run(KIND, session).await,
            Verb::Wait(args) => args.run(session).await,
            Verb::Watch(args) => args.run(KIND, session).await,
        }
    }
}

impl ListOperations {
    async fn run(self, session: &Session) -> Outcome {
        let mut objects = session.api.list(KIND, "").await?;
        objects.retain(|object| {
            let Object::Operation(operation) = object else {
                return false;
            };
            let meant = self
                .target
                .as_ref()
                .is_none_or(|target| *target == operation.target);
            meant && !(self.running && operation.done)
        });
        output::many(session.format, KIND, &objects)
    }
}

impl Wait {
    async fn run(self, session: &Session) -> Outcome {
        for name in &self.names {
            let Object::Operation(operation) = session.api.get(KIND, &KIND.full(name)?).await?
            else {
                continue;
            };
            let ended = wait(&session.api, operation).await?;
            match session.format {
                Format::Table => line(&format!("{}: {} done", ended.target, ended.verb))?,
                format => output::one(format, &Object::Operation(ended))?,
            }
        }
        Ok(())
    }
}
