//! [I1]: kill -9 at random moments loses no acknowledged write and leaves no half record.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use vsecm_tests::{Component, Options, story};

use crate::support::{operator::Operator, workload};

const KILLS: usize = 200;
const WRITERS: usize = 4;

fn document(writer: usize, number: u64) -> String {
    let filler = format!("{number:08}").repeat(200);
    format!(r#"{{"writer":"{writer}","number":"{number:08}","filler":"{filler}"}}"#)
}

fn number_in(document: &str) -> u64 {
    let at = document.find("\"number\":\"").expect("a half record") + 10;
    document[at..at + 8].parse().expect("a half record")
}

/// Writes one number after the other until told to stop or until a write fails: that one may or may not be there.
async fn write(
    operator: Operator,
    writer: usize,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) {
    let name = format!("w{writer}");
    while !stop.load(Ordering::SeqCst) {
        let next = acknowledged.load(Ordering::SeqCst) + 1;
        let value = document(writer, next);
        if operator.put(&name, "default", value.as_bytes()).await.is_err() {
            return;
        }
        acknowledged.store(next, Ordering::SeqCst);
    }
}

fn random_moment() -> Duration {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).unwrap();
    Duration::from_micros(u64::from(u16::from_ne_bytes(bytes)) % 40_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_kills_lose_nothing() {
    let options = Options { svid_lifetime: Duration::from_hours(1), ..Options::default() };
    let story = story::start_with(options).await.unwrap();
    let counters: Vec<Arc<AtomicU64>> = (0..WRITERS).map(|_| Arc::default()).collect();
    for round in 0..KILLS {
        let operator = Operator::of(&story);
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = counters
            .iter()
            .enumerate()
            .map(|(writer, counter)| {
                tokio::spawn(write(
                    operator.clone(),
                    writer,
                    Arc::clone(counter),
                    Arc::clone(&stop),
                ))
            })
            .collect();
        // the moment is what is random here; nothing is awaited
        tokio::time::sleep(random_moment()).await;
        story.crash(Component::Safe).await.unwrap();
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            writer.await.unwrap();
        }
        story.start_component(Component::Safe).await.unwrap();
        for (writer, counter) in counters.iter().enumerate() {
            let acknowledged = counter.load(Ordering::SeqCst);
            let svid = workload::svid(&story, &format!("w{writer}"), "default");
            let state = workload::fetch(&mut workload::client(&story, Some(&svid))).await.unwrap();
            let found = workload::document(&state).map_or(0, |bytes| {
                let text = std::str::from_utf8(bytes).expect("a half record");
                let number = number_in(text);
                assert_eq!(text, document(writer, number), "a half record");
                number
            });
            assert!(
                found == acknowledged || found == acknowledged + 1,
                "round {round}: writer {writer} was told {acknowledged}, found {found}"
            );
            counter.store(found, Ordering::SeqCst);
        }
    }
    let total: u64 = counters.iter().map(|counter| counter.load(Ordering::SeqCst)).sum();
    assert!(total > KILLS as u64, "hardly anything was written: {total}");
    story.end().await.unwrap();
}
