// Renders a Helm chart as `helm template` does, as far as ours needs: Go's text/template with Sprig and Helm's own functions
// (include, tpl, required, toYaml, fromYaml, .Files, .Capabilities). Helm itself is not packaged for Debian.
//
//	render CHART RELEASE NAMESPACE < values.json
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"github.com/ghodss/yaml"
)

type files struct{ root string }

func (f files) Get(name string) string {
	data, err := os.ReadFile(filepath.Join(f.root, name))
	if err != nil {
		return ""
	}
	return string(data)
}

func (f files) Glob(pattern string) map[string][]byte {
	found := map[string][]byte{}
	paths, _ := filepath.Glob(filepath.Join(f.root, pattern))
	for _, path := range paths {
		name, _ := filepath.Rel(f.root, path)
		found[name] = []byte(f.Get(name))
	}
	return found
}

func die(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	root, release, namespace := os.Args[1], os.Args[2], os.Args[3]
	var chart, values, override map[string]interface{}
	text, err := os.ReadFile(filepath.Join(root, "Chart.yaml"))
	die(err)
	die(yaml.Unmarshal(text, &chart))
	text, err = os.ReadFile(filepath.Join(root, "values.yaml"))
	die(err)
	die(yaml.Unmarshal(text, &values))
	die(json.NewDecoder(os.Stdin).Decode(&override))
	merge(values, override)
	upper := map[string]interface{}{}
	for key, value := range chart {
		upper[strings.ToUpper(key[:1])+key[1:]] = value
	}
	data := map[string]interface{}{
		"Values": values, "Chart": upper, "Files": files{root},
		"Release":      map[string]interface{}{"Name": release, "Namespace": namespace, "Service": "Helm", "IsInstall": true, "Revision": 1},
		"Capabilities": map[string]interface{}{"KubeVersion": map[string]interface{}{"Version": "v1.30.0", "Major": "1", "Minor": "30"}},
	}
	set := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["toYaml"] = func(value interface{}) string {
		out, err := yaml.Marshal(value)
		die(err)
		return strings.TrimSuffix(string(out), "\n")
	}
	functions["fromYaml"] = func(text string) map[string]interface{} {
		found := map[string]interface{}{}
		if err := yaml.Unmarshal([]byte(text), &found); err != nil {
			found["Error"] = err.Error()
		}
		return found
	}
	functions["include"] = func(name string, value interface{}) (string, error) {
		var out bytes.Buffer
		err := set.ExecuteTemplate(&out, name, value)
		return out.String(), err
	}
	functions["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, fmt.Errorf("%s", message)
		}
		return value, nil
	}
	set.Funcs(functions)
	paths, _ := filepath.Glob(filepath.Join(root, "templates", "*"))
	sort.Strings(paths)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		die(err)
		_, err = set.New(filepath.Base(path)).Parse(string(text))
		die(err)
	}
	for _, path := range paths {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "_") {
			continue
		}
		var out bytes.Buffer
		die(set.ExecuteTemplate(&out, name, data))
		if body := strings.TrimSpace(strings.ReplaceAll(out.String(), "<no value>", "")); body != "" && strings.HasSuffix(name, ".yaml") {
			fmt.Printf("---\n# Source: sidelight/templates/%s\n%s\n", name, body)
		}
	}
}

func merge(into, from map[string]interface{}) {
	for key, value := range from {
		if below, ok := value.(map[string]interface{}); ok {
			if known, ok := into[key].(map[string]interface{}); ok {
				merge(known, below)
				continue
			}
		}
		into[key] = value
	}
}
