//! Packages that were not ingested: what the profile's question finds in the platform's database.

use crate::orchestrate::OrchestrateError;
use crate::orchestrate::platform::profile::Profile;
use crate::source::postgres::{Cluster, Table};

/// Asks. Nothing can be changed by it, whatever the profile's question is.
pub fn failed_packages(profile: &Profile, stop: &dyn Fn() -> bool) -> Result<Table, OrchestrateError> {
    let after = &profile.after_restore;
    if after.failed_packages.trim().is_empty() {
        let why = "the profile has no question for packages that were not ingested: see after-restore.failed-packages";
        return Err(OrchestrateError::Unfit(why.to_owned()));
    }
    let cluster = Cluster::to(&profile.postgres, after.database.as_str())?;
    Ok(cluster.table("list packages that were not ingested", &after.failed_packages, stop)?)
}
