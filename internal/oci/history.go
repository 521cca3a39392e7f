package oci

import (
	"encoding/json"
	"time"

	"banger"
)

// History tells how an image was made, the first step first, as its config says:
// image-spec v1.1, config.md, "history". Layers that no step claims are steps
// without a word.
func History(rawConfig []byte, layers []banger.ImageLayer) ([]banger.ImageStep, error) {
	var c struct {
		History []struct {
			Created    time.Time `json:"created"`
			CreatedBy  string    `json:"created_by"`
			Comment    string    `json:"comment"`
			EmptyLayer bool      `json:"empty_layer"`
		} `json:"history"`
	}
	if err := decodeDocument("config", rawConfig, &c); err != nil {
		return nil, err
	}
	steps := []banger.ImageStep{}
	next := 0
	claim := func(s banger.ImageStep) {
		if next < len(layers) {
			s.Layer, s.Size = layers[next].DiffID, layers[next].Size
			next++
		}
		steps = append(steps, s)
	}
	for _, h := range c.History {
		s := banger.ImageStep{Created: h.Created, By: h.CreatedBy, Comment: h.Comment}
		if h.EmptyLayer {
			steps = append(steps, s)
			continue
		}
		claim(s)
	}
	for next < len(layers) {
		claim(banger.ImageStep{})
	}
	return steps, nil
}

// Labels are those of an image's config.
func Labels(rawConfig []byte) map[string]string {
	var c struct {
		Config struct{ Labels map[string]string } `json:"config"`
	}
	if json.Unmarshal(rawConfig, &c) != nil {
		return nil
	}
	return c.Config.Labels
}
