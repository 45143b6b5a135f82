//! One connection, and what is asked over it.
//!
//! Invariant: the socket has no time limit of its own. A read with one fails when a signal, or being stopped and
//! continued, interrupts it (signal(7): even with SA_RESTART), and the crate then closes the connection: a server that
//! merely answers would count as one that failed. So each command runs on a thread that takes no part in anything else,
//! and is waited for. After one that took too long the connection is given up, so that no later command can meet its answer.

use std::time::Duration;

use redis::{Cmd, Connection, FromRedisValue, Pipeline, RedisResult};

use super::{RedisSettings, failed};
use crate::source::{SourceError, wait};

/// A connection.
pub(super) struct Link {
    settings: RedisSettings,
    connection: Option<Connection>,
}

impl Link {
    pub(super) fn open(settings: &RedisSettings) -> Result<Self, SourceError> {
        let opening = settings.opening()?;
        let limit = Duration::from_secs(settings.answer_timeout_seconds.max(1));
        let what = format!("{} did not accept a connection", settings.shown());
        let opened = wait::attended(&what, limit, &|| false, opening)?;
        let connection = opened.map_err(|error| failed(settings, "connect", error))?;
        Ok(Link { settings: settings.clone(), connection: Some(connection) })
    }

    pub(super) fn settings(&self) -> &RedisSettings {
        &self.settings
    }

    /// Asks one thing.
    pub(super) fn ask<T>(&mut self, action: &str, command: &Cmd) -> Result<T, SourceError>
    where
        T: FromRedisValue + Send + 'static,
    {
        let command = command.clone();
        self.attended(action, move |connection| command.query(connection))
    }

    /// Asks for a transaction.
    pub(super) fn transact<T>(&mut self, action: &str, commands: &Pipeline) -> Result<T, SourceError>
    where
        T: FromRedisValue + Send + 'static,
    {
        let commands = commands.clone();
        self.attended(action, move |connection| commands.query(connection))
    }

    fn attended<T: Send + 'static>(
        &mut self,
        action: &str,
        ask: impl FnOnce(&mut Connection) -> RedisResult<T> + Send + 'static,
    ) -> Result<T, SourceError> {
        let server = self.settings.shown();
        let Some(mut connection) = self.connection.take() else {
            let what = "an earlier answer did not come in time, so its connection was given up".to_owned();
            return Err(SourceError::Answer { server, what });
        };
        let limit = Duration::from_secs(self.settings.answer_timeout_seconds.max(1));
        let what = format!("{server} did not answer: cannot {action}");
        let (connection, answer) = wait::attended(&what, limit, &|| false, move || {
            let answer = ask(&mut connection);
            (connection, answer)
        })?;
        self.connection = Some(connection);
        answer.map_err(|error| failed(&self.settings, action, error))
    }
}
