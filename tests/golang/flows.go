// Reads GetFlowsResponse messages, each behind its length (four bytes, little-endian), and writes them as JSON lines: as the stock
// hubble CLI does, by a registry that has Hubble's types and not ours.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	_ "google.golang.org/protobuf/types/known/anypb"
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/fieldmaskpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"
	_ "google.golang.org/protobuf/types/known/wrapperspb"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	raw, err := os.ReadFile(os.Args[1]) // a FileDescriptorSet
	fail(err)
	var set descriptorpb.FileDescriptorSet
	fail(proto.Unmarshal(raw, &set))
	files, err := protodesc.NewFiles(&set)
	fail(err)
	found, err := files.FindDescriptorByName("observer.GetFlowsResponse")
	fail(err)
	in := bufio.NewReader(os.Stdin)
	for {
		var size uint32
		if err := binary.Read(in, binary.LittleEndian, &size); err == io.EOF {
			return
		} else {
			fail(err)
		}
		body := make([]byte, size)
		_, err := io.ReadFull(in, body)
		fail(err)
		message := dynamicpb.NewMessage(found.(protoreflect.MessageDescriptor))
		fail(proto.Unmarshal(body, message))
		line, err := protojson.Marshal(message)
		fail(err)
		fmt.Println(string(line))
	}
}
