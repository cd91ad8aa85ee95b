// Google's own Pub/Sub server for tests, which lives in memory, and what a test asks it beyond Pub/Sub:
//
//	PUT  /topics?name=NAME               makes a topic
//	GET  /messages                       all that was published, in order, as JSON
//	POST /refuse?data=TEXT&code=N&times=N  refuses so many requests that have a message with these data
//
// Its arguments are the addresses of the one and of the other.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What is to be refused, and how often.
type refusals struct {
	sync.Mutex
	code  codes.Code
	data  string
	times int
}

// React has pstest's signature: handled or not, and the answer.
func (r *refusals) React(request interface{}) (bool, interface{}, error) {
	r.Lock()
	defer r.Unlock()
	for _, message := range request.(*pubsubpb.PublishRequest).Messages {
		if r.times > 0 && string(message.Data) == r.data {
			r.times--
			return true, nil, status.Error(r.code, "refused by the test")
		}
	}
	return false, nil, nil
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func main() {
	refused := &refusals{}
	server := pstest.NewServerWithAddress(os.Args[1],
		pstest.ServerReactorOption{FuncName: "Publish", Reactor: refused})
	http.HandleFunc("PUT /topics", func(w http.ResponseWriter, r *http.Request) {
		topic := &pubsubpb.Topic{Name: r.FormValue("name")}
		if _, err := server.GServer.CreateTopic(context.Background(), topic); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	http.HandleFunc("GET /messages", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(server.Messages())
	})
	http.HandleFunc("POST /refuse", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.FormValue("code"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		times, err := strconv.Atoi(r.FormValue("times"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		refused.Lock()
		defer refused.Unlock()
		refused.code, refused.data, refused.times = codes.Code(code), r.FormValue("data"), times
	})
	listener, err := net.Listen("tcp", os.Args[2])
	if err != nil {
		fail(err)
	}
	fail(http.Serve(listener, nil))
}
