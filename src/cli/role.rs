//! Roles as they are given on the command line.

use clap::ValueEnum;

use cuttle::format::role::Role;

/// A role's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    Backup,
    Restore,
    Keeper,
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Backup => Self::Backup,
            RoleName::Restore => Self::Restore,
            RoleName::Keeper => Self::Keeper,
            RoleName::Admin => Self::Admin,
        }
    }
}
