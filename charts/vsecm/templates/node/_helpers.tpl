{{/* what both containers of vsecm-node know */}}
{{- define "vsecm.nodeEnv" -}}
- {name: VSECM_NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: VSECM_POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
- {name: VSECM_NODE_LOCK, value: /run/vsecm/node/lock}
- {name: VSECM_NODE_AGENT_SOCKET, value: /run/vsecm/agent/socket/node-agent.sock}
- {name: VSECM_KEEPER_SOCKET, value: /run/vsecm/keeper/keeper.sock}
- {name: VSECM_KEEPER_PEER, value: "uid:{{ include "vsecm.uid" (dict "uid" "keeper") }}"}
{{- end }}

{{/* attributes as lines */}}
{{- define "vsecm.attributes" -}}
{{- range $name, $value := . }}{{ $name }}={{ $value }}
{{ end }}
{{- end }}

{{/* The own binary asks itself: no sidecar, no mount, no network. */}}
{{- define "vsecm.execProbes" -}}
livenessProbe:
  exec: {command: [{{ . }}, probe, live]}
  initialDelaySeconds: 5
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  # each costs the node a process of the container runtime, twice a pod, for ever
  exec: {command: [{{ . }}, probe, ready]}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}
