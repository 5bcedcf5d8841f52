//! Frames of the sockets: refused, or written and read again the same; a page of whatever records
//! were accepted goes through the socket.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};
use vsecm_node_agent_api::{
    frame::{
        AgentReply, AgentRequest, FRAME_LIMIT, KeeperReply, KeeperRequest, Order, OrderReply, PAGE,
    },
    target::Target,
    volume::VolumeRecord,
};

fuzz_target!(|data: &[u8]| {
    if let Some(AgentRequest::Attach { record, .. } | AgentRequest::Resume { record }) =
        read_and_again::<AgentRequest>(data)
    {
        a_page_of(&record);
    }
    if let Some(KeeperRequest::PutVolume { record, .. }) = read_and_again::<KeeperRequest>(data) {
        a_page_of(&record);
    }
    read_and_again::<AgentReply>(data);
    read_and_again::<KeeperReply>(data);
    read_and_again::<Order>(data);
    read_and_again::<OrderReply>(data);
});

fn read_and_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    let frame: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_vec(&frame).expect("a frame can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, frame);
    Some(frame)
}

fn a_page_of(record: &VolumeRecord) {
    // csi makes records of parsed targets only
    if record.target.parse::<Target>().is_err() {
        return;
    }
    let records = vec![record.clone(); PAGE];
    let page = serde_json::to_vec(&KeeperReply::Volumes { records }).expect("a page");
    assert!(page.len() <= FRAME_LIMIT, "a page has {} bytes", page.len());
}
