//! Bounds how many requests of one entity are waited for at once, so that one that everybody wants cannot take the room of
//! all others. Gateways count what they serve, nodes the commands that they have not answered.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::key::EntityKey;

/// Places per entity. Cheap to clone; clones share the places.
#[derive(Clone, Debug)]
pub struct EntityPlaces {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Invariant: the number of live places of each entity, from 1 to `most`; so no longer than the list of all places is.
    taken: Mutex<HashMap<EntityKey, usize>>,
    most: usize,
}

/// One place of an entity, given back when dropped.
#[derive(Debug)]
pub struct EntityPlace {
    shared: Arc<Shared>,
    key: EntityKey,
}

impl EntityPlaces {
    /// `most` places for each entity.
    pub fn new(most: usize) -> Self {
        Self { shared: Arc::new(Shared { taken: Mutex::default(), most }) }
    }

    /// A place of this entity, unless all of its are taken.
    pub fn enter(&self, key: &EntityKey) -> Option<EntityPlace> {
        let mut taken = self.shared.taken.lock();
        let count = taken.get(key).copied().unwrap_or_default();
        if count >= self.shared.most {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        drop(taken);
        Some(EntityPlace { shared: self.shared.clone(), key: key.clone() })
    }

    /// Entities that have a place taken.
    pub fn entities(&self) -> usize {
        self.shared.taken.lock().len()
    }
}

impl Drop for EntityPlace {
    fn drop(&mut self) {
        let mut taken = self.shared.taken.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(id: &str) -> EntityKey {
        EntityKey::new("counter", id).unwrap()
    }

    #[test]
    fn one_entity_cannot_take_the_places_of_another() {
        let places = EntityPlaces::new(2);
        let (first, _second) = (places.enter(&key("hot")).unwrap(), places.enter(&key("hot")).unwrap());
        assert!(places.enter(&key("hot")).is_none());
        let _other = places.enter(&key("other")).unwrap();
        drop(first);
        assert!(places.clone().enter(&key("hot")).is_some());
    }

    proptest! {
        #[test]
        fn what_is_given_back_leaves_nothing_behind(steps in prop::collection::vec((0_u8..4, any::<bool>()), 0..200)) {
            let places = EntityPlaces::new(3);
            let mut held: Vec<Vec<EntityPlace>> = (0..4).map(|_| Vec::new()).collect();
            for (id, enters) in steps {
                let mine = &mut held[usize::from(id)];
                if !enters {
                    mine.pop();
                } else if let Some(place) = places.enter(&key(&id.to_string())) {
                    mine.push(place);
                } else {
                    prop_assert_eq!(mine.len(), 3);
                }
                prop_assert!(mine.len() <= 3);
            }
            prop_assert_eq!(places.entities(), held.iter().filter(|held| !held.is_empty()).count());
            drop(held);
            prop_assert_eq!(places.entities(), 0);
        }
    }
}
