package daemon

import (
	"cmp"
	"slices"
	"strings"

	"banger"
	"banger/internal/oci"
	"banger/internal/state"
)

// Labels of an image's OCI config that banger acts on.
const (
	labelInit = "banger.init" // how its VMs start where --init says nothing
)

// inits are the words for VMSpec.Init, the default first.
var inits = []string{"auto", "banger", "systemd", "provision"}

// provisionTime is the default of VMSpec.BootTimeout, in seconds, where a boot
// may install packages: the guest itself takes at most half an hour for them.
const provisionTime = 35 * 60

// imageLabels are those of an image's OCI config; an image of another source has none.
func (d *Daemon) imageLabels(image string) (map[string]string, error) {
	raw, err := d.ociDocument(image, state.OCIConfigFile)
	return oci.Labels(raw), err
}

// fillFromImage fills in what the image decides; asked is what the user said.
func (d *Daemon) fillFromImage(spec, asked banger.VMSpec, image banger.Image) (banger.VMSpec, error) {
	spec.Image = image.Name
	spec.Kernel = cmp.Or(spec.Kernel, image.Kernel, defaultKernel)
	labels, err := d.imageLabels(image.Name)
	if err != nil {
		return spec, err
	}
	if init := labels[labelInit]; init != "" && asked.Init == "" {
		if !slices.Contains(inits, init) {
			return spec, banger.Errorf(banger.Invalid, "image %q has the label %s=%q: it is none of %s", image.Name, labelInit, init, strings.Join(inits, ", ")).
				WithHint("say it yourself: --init auto")
		}
		spec.Init = init
	}
	if spec.Init == "provision" && asked.BootTimeout <= 0 {
		spec.BootTimeout = provisionTime
	}
	return spec, nil
}

// capabilitiesOf are the capabilities that a VM is to have.
func (d *Daemon) capabilitiesOf(rec banger.VM) ([]capability, error) {
	labels, err := d.imageLabels(rec.Spec.Image)
	return capabilities(rec.Spec, labels), err
}
