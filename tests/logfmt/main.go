// Parses a log with go-logfmt, as Loki does, and prints each line's fields as JSON, in order.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/go-logfmt/logfmt"
)

func main() {
	decoder, encoder := logfmt.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for decoder.ScanRecord() {
		fields := [][2]string{}
		for decoder.ScanKeyval() {
			fields = append(fields, [2]string{string(decoder.Key()), string(decoder.Value())})
		}
		if err := encoder.Encode(fields); err != nil {
			log.Fatal(err)
		}
	}
	if err := decoder.Err(); err != nil {
		log.Fatal(err)
	}
}
