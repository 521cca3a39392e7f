package oci

import (
	"encoding/json"
	"fmt"
	"strings"

	"banger"
)

// config is what banger reads of an image config. Source: OCI image-spec v1.1, config.md.
type config struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	RootFS       struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	Config struct {
		Entrypoint []string
		Cmd        []string
		Env        []string
		WorkingDir string
		User       string
		StopSignal string
	} `json:"config"`
}

// parseConfig checks a config against the platform and the number of layers of its manifest.
func parseConfig(doing string, raw []byte, want platform, layers int) (*config, error) {
	c := &config{}
	err := json.Unmarshal(raw, c)
	if err != nil {
		err = malformed("config: %w", err)
	} else {
		err = c.check(want, layers)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return c, nil
}

func (c *config) check(want platform, layers int) error {
	if c.OS != "linux" || c.Architecture != want.arch {
		return banger.Errorf(banger.Unsupported, "the image is made for %q, not for linux/%s", c.OS+"/"+c.Architecture, want.arch)
	}
	if c.RootFS.Type != "layers" {
		return malformed("a root file system of type %q", c.RootFS.Type)
	}
	if len(c.RootFS.DiffIDs) != layers {
		return malformed("%d layers in the manifest, %d in the config", layers, len(c.RootFS.DiffIDs))
	}
	for _, id := range c.RootFS.DiffIDs {
		if !digestGrammar().MatchString(id) {
			return malformed("diff ID %q", id)
		}
	}
	for _, s := range [][]string{c.Config.Entrypoint, c.Config.Cmd, c.Config.Env,
		{c.Config.WorkingDir, c.Config.User, c.Config.StopSignal}} {
		if strings.ContainsRune(strings.Join(s, ""), 0) {
			return malformed("a NUL byte in its config") // no argv, environment or path can hold one
		}
	}
	return nil
}

func (c *config) imageConfig() banger.ImageConfig {
	return banger.ImageConfig{
		Entrypoint: c.Config.Entrypoint,
		Cmd:        c.Config.Cmd,
		Env:        c.Config.Env,
		WorkingDir: c.Config.WorkingDir,
		User:       c.Config.User,
		StopSignal: c.Config.StopSignal,
	}
}
