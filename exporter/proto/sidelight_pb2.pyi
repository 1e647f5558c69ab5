from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class FlowDetail(_message.Message):
    __slots__ = ("kind", "reporter", "reason", "sent_bytes", "received_bytes", "sent_segments", "received_segments", "retransmits", "srtt_us", "duration_ns", "source_provenance", "destination_provenance", "source_reason", "destination_reason", "source_name", "destination_name", "adopted", "number", "host", "source_container", "destination_container", "operation", "protocol", "status")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REPORTER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    RETRANSMITS_FIELD_NUMBER: _ClassVar[int]
    SRTT_US_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_REASON_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_REASON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_NAME_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_NAME_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_CONTAINER_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_CONTAINER_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    reporter: str
    reason: str
    sent_bytes: int
    received_bytes: int
    sent_segments: int
    received_segments: int
    retransmits: int
    srtt_us: int
    duration_ns: int
    source_provenance: str
    destination_provenance: str
    source_reason: str
    destination_reason: str
    source_name: str
    destination_name: str
    adopted: bool
    number: int
    host: str
    source_container: str
    destination_container: str
    operation: str
    protocol: str
    status: str
    def __init__(self, kind: _Optional[str] = ..., reporter: _Optional[str] = ..., reason: _Optional[str] = ..., sent_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ..., sent_segments: _Optional[int] = ..., received_segments: _Optional[int] = ..., retransmits: _Optional[int] = ..., srtt_us: _Optional[int] = ..., duration_ns: _Optional[int] = ..., source_provenance: _Optional[str] = ..., destination_provenance: _Optional[str] = ..., source_reason: _Optional[str] = ..., destination_reason: _Optional[str] = ..., source_name: _Optional[str] = ..., destination_name: _Optional[str] = ..., adopted: _Optional[bool] = ..., number: _Optional[int] = ..., host: _Optional[str] = ..., source_container: _Optional[str] = ..., destination_container: _Optional[str] = ..., operation: _Optional[str] = ..., protocol: _Optional[str] = ..., status: _Optional[str] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("kind", "argument")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ARGUMENT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    argument: str
    def __init__(self, kind: _Optional[str] = ..., argument: _Optional[str] = ...) -> None: ...

class QueryResponse(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...
