//! What the pod's identity means for its volume.

use std::sync::Arc;

use tracing::warn;
use vsecm_node_agent_api::volume::OnWithdraw;

use super::{Former, Member, Owner, Updates};
use crate::{
    identity::{Identity, Issue},
    snapshot::SnapshotKey,
    tree::{Nothing, Source},
    volumes::binding::{Access, Binding, binding_key},
};

impl Owner {
    pub(super) fn join(&mut self, key: &SnapshotKey, identity: Option<Arc<Identity>>) {
        let watch = self.means.watches.join(&self.record.volume, key, identity);
        let feed = watch.subscribe();
        self.member = Some(Member { watch, feed });
    }

    pub(super) async fn take_standing(&mut self) {
        self.standing = self.news_of_identity.borrow_and_update().clone();
        match self.standing.issue.clone() {
            Issue::NotYet => {}
            Issue::Issued(identity) => self.issued(identity).await,
            Issue::Withdrawn => self.withdrawn().await,
        }
    }

    /// Opens are recorded under that SPIFFE ID from now on; whether that is news.
    pub(super) fn is_called(&self, actor: &str) -> bool {
        match &self.observers.opens {
            Some(opens) if !actor.is_empty() && opens.actor() != actor => {
                opens.set_actor(actor.to_owned());
                true
            }
            _ => false,
        }
    }

    async fn issued(&mut self, identity: Arc<Identity>) {
        let is_renamed = self.is_called(&identity.svid.spiffe_id().to_string());
        let had_access = matches!(self.updates, Updates::Flow);
        let same_key = match &self.member {
            Some(member) if *member.watch.key() == identity.key => {
                let volume = &self.record.volume;
                member.watch.set_identity(volume, Some(Arc::clone(&identity)));
                true
            }
            Some(_) | None => false,
        };
        // the kernel is shown something, or is to be shown again what a predecessor showed it
        let is_seen = self.shown.is_some() || !had_access;
        let is_former =
            |source: &Source| is_seen && !matches!(source, Source::Nothing(Nothing::NotYet));
        let seen = self.desired().filter(is_former);
        self.updates = Updates::Flow;
        if same_key && had_access && !is_renamed {
            return;
        }
        if !same_key {
            self.take_secret(&identity, seen).await;
        }
        self.bind(Access::Granted).await;
    }

    /// The pod's identity stands for this secret, and for none or another one before.
    async fn take_secret(&mut self, identity: &Arc<Identity>, seen: Option<Source>) {
        let volume = self.record.volume.clone();
        let Some(before) = self.member.take() else {
            self.join(&identity.key, Some(Arc::clone(identity)));
            return;
        };
        warn!(%volume, secret = %identity.key.secret, "the pod's identity now stands for another secret");
        let is_back = |former: &mut Former| *former.member.watch.key() == identity.key;
        if let Some(former) = self.former.take_if(is_back) {
            let watch = &former.member.watch;
            watch.set_identity(&volume, Some(Arc::clone(identity)));
            self.member = Some(former.member);
        } else {
            self.join(&identity.key, Some(Arc::clone(identity)));
            if let (None, Some(seen)) = (&self.former, seen) {
                before.watch.set_identity(&volume, None);
                if let Source::Said(snapshot) = &seen {
                    before.watch.will_show(&volume, snapshot);
                }
                let member = before;
                self.former = Some(Former { member, seen });
                return;
            }
        }
        self.means.watches.leave(&volume, &before.watch).await;
    }

    /// Once the secret has content, a successor is to show it: before readers see it here.
    pub(super) async fn leave_former_if_due(&mut self) {
        let is_due = matches!(self.updates, Updates::Flow) && self.newest().is_some();
        let Some(former) = self.former.take_if(|_| is_due) else {
            return;
        };
        self.bind(Access::Granted).await;
        let volume = &self.record.volume;
        self.means.watches.leave(volume, &former.member.watch).await;
    }

    async fn withdrawn(&mut self) {
        let is_revoked = self.record.options.on_withdraw == OnWithdraw::Revoke;
        let Some(member) = &self.member else {
            // a predecessor's word was lost: what it showed is not known, but that it is to go is
            if is_revoked {
                self.updates = Updates::Revoked;
            }
            return;
        };
        member.watch.set_identity(&self.record.volume, None);
        let pod = &self.record.pod;
        match self.record.options.on_withdraw {
            OnWithdraw::Keep => {
                warn!(volume = %self.record.volume, pod = %pod.name, namespace = %pod.namespace, "the pod's identity was withdrawn: its files stay, without updates");
                if matches!(self.updates, Updates::Flow) {
                    self.updates = Updates::Stopped(self.desired());
                }
                // of a former secret's version a successor knows already
                if let Updates::Stopped(Some(Source::Said(snapshot))) = &self.updates
                    && snapshot.key() == member.watch.key()
                {
                    // a twin of the pod may get newer versions, which a successor finds too
                    member.watch.will_show(&self.record.volume, snapshot);
                    self.bind(Access::Stopped(snapshot.sequence())).await;
                }
            }
            OnWithdraw::Revoke => {
                warn!(volume = %self.record.volume, pod = %pod.name, namespace = %pod.namespace, "the pod's identity was withdrawn: its files go");
                self.updates = Updates::Revoked;
                if let Some(former) = &mut self.former {
                    // with a new identity it does not come back
                    former.seen = Source::Nothing(Nothing::Revoked);
                }
                self.bind(Access::Revoked).await;
            }
        }
    }

    /// Leaves word for a successor.
    async fn bind(&mut self, access: Access) {
        self.access = access;
        self.leave_word().await;
    }

    /// The same, where access is what it was.
    pub(super) async fn leave_word(&self) {
        let access = self.access;
        let Some(member) = &self.member else { return };
        // while the secret has no content, a successor could show nothing of it
        let (member, access) = match &self.former {
            Some(Former { member, seen }) => match seen {
                Source::Said(snapshot) => (member, Access::Stopped(snapshot.sequence())),
                Source::Nothing(_) => (member, Access::Revoked),
            },
            None => (member, access),
        };
        let binding = Binding {
            volume: self.record.volume.clone(),
            key: member.watch.key().clone(),
            access,
            bound: self.bound.clone(),
            actor: self.observers.opens.as_ref().map(|opens| opens.actor()).unwrap_or_default(),
        };
        if let (Some(key), Some(memfd)) = (binding_key(&binding.volume), binding.to_memfd()) {
            self.means.keeper.deposit(key, memfd).await;
        } else {
            warn!(volume = %binding.volume, "no word can be left for a successor");
        }
    }
}
