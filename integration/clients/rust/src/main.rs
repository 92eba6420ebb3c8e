//! Reads messages of a stream with the original broker's published client. Prints the body of each message.
//!
//! Arguments: the URL of reads without the consumer address, the consumer address, the stream id, how many messages.

use futures::StreamExt;
use megaphone::client::{model::StreamSpec, MegaphoneClient};
use std::pin::pin;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, channel, stream_id, count] = arguments.as_slice() else {
        anyhow::bail!("arguments: <url> <consumer address> <stream id> <count>");
    };
    let mut client = MegaphoneClient::new(url, 1000);
    // A user's initializer asks a backend for the channel. This one already knows it.
    let stream = client
        .new_unbounded_stream(|_open_channel| async {
            anyhow::Ok(StreamSpec {
                channel: channel.clone(),
                streams: vec![stream_id.clone()],
            })
        })
        .await?;
    let mut messages = pin!(stream.take(count.parse()?));
    while let Some(message) = messages.next().await {
        let body: serde_json::Value = message.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        println!("{body}");
    }
    Ok(())
}
