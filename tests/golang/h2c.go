// HTTP/2 in clear text by Go's own library: `.h2c serve HOST:PORT REPORT`, which counts its requests, and `.h2c ask URL CONNECTIONS`,
// which reads lines "CALLS STREAMS" and asks so often, so many at once.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

func serve(address, report string) {
	var requests int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		atomic.AddInt64(&requests, 1)
		io.WriteString(w, "hello, this is go")
	})
	go func() {
		for {
			os.WriteFile(report+".new", []byte(fmt.Sprintf("%d", atomic.LoadInt64(&requests))), 0o644)
			os.Rename(report+".new", report)
			time.Sleep(50 * time.Millisecond)
		}
	}()
	panic(http.ListenAndServe(address, h2c.NewHandler(handler, &http2.Server{MaxConcurrentStreams: 1000})))
}

func ask(url string, connections int) {
	clients := make([]*http.Client, connections)
	for i := range clients {
		clients[i] = &http.Client{Transport: &http2.Transport{
			AllowHTTP: true,
			DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
				return net.Dial(network, address)
			},
		}}
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var calls, streams int
		fmt.Sscan(lines.Text(), &calls, &streams)
		var next, good int64
		var all sync.WaitGroup
		for c := range clients {
			for s := 0; s < streams; s++ {
				all.Add(1)
				go func(client *http.Client) {
					defer all.Done()
					for atomic.AddInt64(&next, 1) <= int64(calls) {
						response, err := client.Get(url)
						if err != nil {
							continue
						}
						io.Copy(io.Discard, response.Body)
						response.Body.Close()
						atomic.AddInt64(&good, 1)
					}
				}(clients[c])
			}
		}
		all.Wait()
		fmt.Println(good)
	}
}

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2], os.Args[3])
	}
	var connections int
	fmt.Sscan(os.Args[3], &connections)
	ask(os.Args[2], connections)
}
