package ipranges

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

// maxDepth bounds how deep JSON may nest; a real answer is 3 deep.
const maxDepth = 8

// decodeStrictJSON reads exactly one JSON document. It is stricter than
// json.Unmarshal, which takes the last of duplicate keys, matches keys in any
// case, and repairs invalid UTF-8: three ways for two readers to see two
// different lists in the same bytes.
func decodeStrictJSON(body []byte) (any, error) {
	if !utf8.Valid(body) {
		return nil, refuse(ClassBadJSON, "the answer is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	var document json.RawMessage
	if err := decoder.Decode(&document); errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, refuse(ClassTruncated, "the JSON ends in the middle")
	} else if err != nil {
		return nil, refuse(ClassBadJSON, "reading JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse(ClassBadJSON, "there is more after the JSON document")
	}
	return decodeValue(json.NewDecoder(bytes.NewReader(document)), 0)
}

// decodeValue reads the next value. The syntax has been checked before; what
// is left to check is depth and duplicate keys.
func decodeValue(decoder *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, refuse(ClassBadJSON, "the JSON nests deeper than %d", maxDepth)
	}
	token, err := decoder.Token()
	if err != nil {
		return nil, refuse(ClassBadJSON, "reading JSON: %w", err)
	}
	switch token {
	case json.Delim('{'):
		return decodeObject(decoder, depth)
	case json.Delim('['):
		return decodeArray(decoder, depth)
	}
	return token, nil
}

func decodeObject(decoder *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return nil, refuse(ClassBadJSON, "reading JSON: %w", err)
		}
		name, _ := key.(string) // in an object, the syntax allows nothing else
		if _, duplicate := object[name]; duplicate {
			return nil, refuse(ClassBadJSON, "the key %s is there twice", excerpt(name))
		}
		if object[name], err = decodeValue(decoder, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := decoder.Token() // the closing brace
	return object, err
}

func decodeArray(decoder *json.Decoder, depth int) (any, error) {
	array := []any{}
	for decoder.More() {
		value, err := decodeValue(decoder, depth+1)
		if err != nil {
			return nil, err
		}
		array = append(array, value)
	}
	_, err := decoder.Token() // the closing bracket
	return array, err
}
