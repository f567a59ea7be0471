//! Lists: all pages are of one moment, whatever happens meanwhile.

use super::*;

async fn page(lab: &Lab, size: i32, token: &str) -> Result<Response<ListVolumesResponse>, Status> {
    let call = Request::new(ListVolumesRequest {
        page_size: size,
        page_token: token.to_owned(),
    });
    lab.services.volumes.list_volumes(call).await
}

#[tokio::test(start_paused = true)]
async fn pages_are_of_one_moment_while_others_write() {
    let lab = Lab::new();
    lab.subsystem("s1").await;
    let mut names = Vec::new();
    for i in 0..25 {
        lab.volume(&format!("v{i:02}")).await;
        names.push(format!("volumes/v{i:02}"));
        if i % 3 == 0 {
            lab.namespace("s1", &format!("a{i}"), &format!("v{i:02}"))
                .await;
        }
    }
    let (mut seen, mut served, mut token) = (Vec::new(), 0, String::new());
    let mut pages = 0;
    loop {
        let listed = ok(page(&lab, 7, &token).await);
        assert!(listed.volumes.len() <= 7);
        pages += 1;
        for volume in listed.volumes {
            served += usize::from(!volume.status.unwrap().namespace.is_empty());
            seen.push(volume.name);
        }
        token = listed.next_page_token;
        if token.is_empty() {
            break;
        }
        // What is written between pages is not seen, nor is what is deleted missing.
        lab.volume(&format!("w{pages}")).await;
        lab.volume(&format!("a{pages}")).await;
        ok(lab.delete_volume(&format!("v{:02}", 23 - 3 * pages)).await);
    }
    assert_eq!((seen, served, pages), (names, 9, 4));
}

#[tokio::test(start_paused = true)]
async fn tokens_belong_to_their_list() {
    let lab = Lab::new();
    lab.node("n1").await;
    lab.node("n2").await;
    for i in 0..5 {
        ok(lab.create_listener("n1", &format!("l{i}"), 4_000 + i).await);
        lab.volume(&format!("v{i}")).await;
    }
    let list = |parent: &str, token: &str| {
        let call = Request::new(ListListenersRequest {
            parent: parent.to_owned(),
            page_size: 2,
            page_token: token.to_owned(),
        });
        lab.services.listeners.list_listeners(call)
    };
    let first = ok(list("nodes/n1", "").await);
    assert_eq!(first.listeners.len(), 2);
    let token = first.next_page_token;
    assert_eq!(ok(list("nodes/n1", &token).await).listeners.len(), 2);
    assert_eq!(fields(list("nodes/n2", &token).await), ["page_token"]);
    assert_eq!(fields(list("nodes/-", &token).await), ["page_token"]);
    assert_eq!(fields(list("n1", "").await), ["parent"]);
    assert_eq!(fields(page(&lab, 2, &token).await), ["page_token"]);
    assert_eq!(fields(page(&lab, 2, "garbage").await), ["page_token"]);
    assert_eq!(
        fields(page(&lab, 2, &first.resume_token).await),
        ["page_token"]
    );
    assert_eq!(fields(page(&lab, -1, "").await), ["page_size"]);
    assert_eq!(ok(list("nodes/-", "").await).listeners.len(), 2);
    assert_eq!(ok(list("nodes/n2", "").await).listeners.len(), 0);
    // The size may change from page to page.
    let token = ok(page(&lab, 2, "").await).next_page_token;
    assert_eq!(ok(page(&lab, 1_000_000, &token).await).volumes.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn pages_of_the_past_and_of_other_stores() {
    let lab = Lab::new();
    for i in 0..5 {
        lab.volume(&format!("v{i}")).await;
    }
    let snapshot = lab.sim.snapshot();
    let token = ok(page(&lab, 2, "").await).next_page_token;
    lab.volume("v9").await;
    lab.sim.compact_all();
    let (code, reason, message) = refusal(page(&lab, 2, &token).await);
    assert_eq!(
        (code, reason.as_str()),
        (Code::OutOfRange, "PAGE_TOKEN_TOO_OLD")
    );
    assert!(message.contains("first page"), "{message}");
    let token = ok(page(&lab, 2, "").await).next_page_token;
    lab.sim.restore(&snapshot);
    assert_eq!(refusal(page(&lab, 2, &token).await).1, "PAGE_TOKEN_TOO_OLD");
}

#[tokio::test(start_paused = true)]
async fn operations_are_listed() {
    let lab = Lab::new();
    for i in 0..5 {
        lab.volume(&format!("v{i}")).await;
    }
    let list = |token: &str| {
        let call = Request::new(ListOperationsRequest {
            page_size: 3,
            page_token: token.to_owned(),
        });
        lab.services.operations.list_operations(call)
    };
    let first = ok(list("").await);
    let second = ok(list(&first.next_page_token).await);
    assert_eq!((first.operations.len(), second.operations.len()), (3, 2));
    assert!(second.next_page_token.is_empty());
}
