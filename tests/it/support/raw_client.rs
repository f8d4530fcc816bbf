//! The smallest Kafka client that there can be: one connection, one request, one answer. It knows
//! nothing of the program's own client.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{
    Decodable, HeaderVersion, Request, StrBytes, encode_request_header_into_buffer,
};

/// How long a connection waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One connection.
pub struct RawClient {
    stream: TcpStream,
    next: i32,
}

impl RawClient {
    /// Connects to `HOST:PORT`.
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self { stream, next: 0 }
    }

    /// Connects where a broker may be away.
    pub fn try_connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, next: 0 })
    }

    /// Another limit on waiting for an answer.
    pub fn set_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
    }

    /// A request and its answer.
    pub fn call<Q: Request>(&mut self, request: &Q, version: i16) -> Q::Response {
        self.try_call(request, version).unwrap()
    }

    /// The same, where the connection may break.
    pub fn try_call<Q: Request>(&mut self, request: &Q, version: i16) -> io::Result<Q::Response> {
        self.send(request, version)?;
        self.receive::<Q>(version)
    }

    /// Writes a request.
    pub fn send<Q: Request>(&mut self, request: &Q, version: i16) -> io::Result<()> {
        let mut header = RequestHeader::default();
        header.request_api_key = Q::KEY;
        header.request_api_version = version;
        header.correlation_id = self.next;
        header.client_id = Some(StrBytes::from_static_str("raw"));
        self.next += 1;
        let mut frame = BytesMut::from(&[0; 4][..]);
        encode_request_header_into_buffer(&mut frame, &header).unwrap();
        request.encode(&mut frame, version).unwrap();
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame)
    }

    /// Reads the answer to the last request that was written.
    pub fn receive<Q: Request>(&mut self, version: i16) -> io::Result<Q::Response> {
        let mut frame = self.receive_frame()?;
        let header = Q::Response::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header).unwrap();
        assert_eq!(header.correlation_id, self.next - 1, "correlation id");
        let response = Q::Response::decode(&mut frame, version).unwrap();
        assert!(frame.is_empty(), "{} bytes behind the answer", frame.len());
        Ok(response)
    }

    /// Reads the bytes of an answer, without their length.
    pub fn receive_frame(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; i32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }
}

/// Text as the codec wants it.
pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.into())
}

/// A topic's name as the codec wants it.
pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A request for the metadata of these topics.
pub fn metadata(topics: &[&str]) -> MetadataRequest {
    let topics = topics.iter().map(|name| {
        let mut topic = MetadataRequestTopic::default();
        topic.name = Some(topic_name(name));
        topic
    });
    let mut request = MetadataRequest::default();
    request.topics = Some(topics.collect());
    request.allow_auto_topic_creation = false;
    request
}

/// A request to make a topic.
pub fn create_topic(name: &str, partitions: i32) -> CreateTopicsRequest {
    let mut topic = CreatableTopic::default();
    topic.name = topic_name(name);
    topic.num_partitions = partitions;
    topic.replication_factor = 1;
    let mut request = CreateTopicsRequest::default();
    request.topics = vec![topic];
    request.timeout_ms = 10_000;
    request
}

/// A request to write one batch.
pub fn produce(topic: &str, partition: i32, batch: Vec<u8>) -> ProduceRequest {
    let mut data = PartitionProduceData::default();
    data.index = partition;
    data.records = Some(batch.into());
    let mut one = TopicProduceData::default();
    one.name = topic_name(topic);
    one.partition_data = vec![data];
    let mut request = ProduceRequest::default();
    request.acks = -1;
    request.timeout_ms = 10_000;
    request.topic_data = vec![one];
    request
}

/// The only partition in the answer.
pub fn produced(response: ProduceResponse) -> PartitionProduceResponse {
    response.responses[0].partition_responses[0].clone()
}

/// A request for one partition from `offset` on: at least one byte, at most `max_bytes`.
pub fn fetch(topic: &str, partition: i32, offset: i64, max_bytes: i32) -> FetchRequest {
    let mut wanted = FetchPartition::default();
    wanted.partition = partition;
    wanted.fetch_offset = offset;
    wanted.current_leader_epoch = -1;
    wanted.partition_max_bytes = max_bytes;
    let mut one = FetchTopic::default();
    one.topic = topic_name(topic);
    one.partitions = vec![wanted];
    let mut request = FetchRequest::default();
    request.replica_id = BrokerId(-1);
    request.max_wait_ms = 500;
    request.min_bytes = 1;
    request.max_bytes = max_bytes;
    request.session_epoch = -1;
    request.topics = vec![one];
    request
}

/// The only partition in the answer.
pub fn fetched(response: FetchResponse) -> PartitionData {
    response.responses[0].partitions[0].clone()
}

/// A request for an offset: -2 the first, -1 the end, else that of a time.
pub fn list_offsets(topic: &str, partition: i32, timestamp: i64) -> ListOffsetsRequest {
    let mut wanted = ListOffsetsPartition::default();
    wanted.partition_index = partition;
    wanted.current_leader_epoch = -1;
    wanted.timestamp = timestamp;
    let mut one = ListOffsetsTopic::default();
    one.name = topic_name(topic);
    one.partitions = vec![wanted];
    let mut request = ListOffsetsRequest::default();
    request.replica_id = BrokerId(-1);
    request.topics = vec![one];
    request
}

/// A request for the coordinator of a group, in a version below 4.
pub fn find_coordinator(group: &str) -> FindCoordinatorRequest {
    let mut request = FindCoordinatorRequest::default();
    request.key = text(group);
    request
}

/// A request to join a group with one protocol, `range`, and no metadata.
pub fn join_group(group: &str, member: &str, session: Duration) -> JoinGroupRequest {
    let mut protocol = JoinGroupRequestProtocol::default();
    protocol.name = text("range");
    let mut request = JoinGroupRequest::default();
    request.group_id = GroupId(text(group));
    request.session_timeout_ms = session.as_millis() as i32;
    request.rebalance_timeout_ms = 10_000;
    request.member_id = text(member);
    request.protocol_type = text("consumer");
    request.protocols = vec![protocol];
    request
}

/// A request for the assignment; `given` is what the leader hands out.
pub fn sync_group(
    group: &str,
    member: &str,
    generation: i32,
    given: &[(&str, &[u8])],
) -> SyncGroupRequest {
    let mut request = SyncGroupRequest::default();
    request.group_id = GroupId(text(group));
    request.member_id = text(member);
    request.generation_id = generation;
    let given = given.iter().map(|(member, bytes)| {
        let mut one = SyncGroupRequestAssignment::default();
        one.member_id = text(member);
        one.assignment = Bytes::copy_from_slice(bytes);
        one
    });
    request.assignments = given.collect();
    request
}

/// A sign of life.
pub fn heartbeat(group: &str, member: &str, generation: i32) -> HeartbeatRequest {
    let mut request = HeartbeatRequest::default();
    request.group_id = GroupId(text(group));
    request.member_id = text(member);
    request.generation_id = generation;
    request
}

/// A farewell, in a version below 3.
pub fn leave_group(group: &str, member: &str) -> LeaveGroupRequest {
    let mut request = LeaveGroupRequest::default();
    request.group_id = GroupId(text(group));
    request.member_id = text(member);
    request
}

/// A commit of one offset.
pub fn commit(
    group: &str,
    member: &str,
    generation: i32,
    topic: &str,
    partition: i32,
    offset: i64,
) -> OffsetCommitRequest {
    let mut one = OffsetCommitRequestPartition::default();
    one.partition_index = partition;
    one.committed_offset = offset;
    one.committed_leader_epoch = -1;
    let mut topics = OffsetCommitRequestTopic::default();
    topics.name = topic_name(topic);
    topics.partitions = vec![one];
    let mut request = OffsetCommitRequest::default();
    request.group_id = GroupId(text(group));
    request.member_id = text(member);
    request.generation_id_or_member_epoch = generation;
    request.topics = vec![topics];
    request
}
