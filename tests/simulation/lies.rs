//! Stores that break their promises: each makes a part of the protocol void, and the simulation must find out.

use object_store::ObjectMeta;

use crate::objects::Objects;
use crate::oracle::Oracle;
use crate::store::Request;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// A create overwrites what is there.
    Overwrites,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Overwrites,
    Hidden,
}

impl Told {
    pub fn overwrites(self) -> bool {
        self == Self::Overwrites
    }

    pub fn hides(self) -> bool {
        self == Self::Hidden
    }
}

impl Lie {
    pub fn about(&self, _request: &Request, _oracle: &Oracle) -> Option<Told> {
        match self {
            Self::Overwrites => Some(Told::Overwrites),
        }
    }

    pub fn unlisted(&self, _request: &Request, _name: &str, _oracle: &Oracle) -> bool {
        false
    }

    pub fn invented(&self, _request: &Request, _objects: &Objects) -> Vec<ObjectMeta> {
        Vec::new()
    }
}
