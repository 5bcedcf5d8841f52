{{/* Uids of all processes; each its own, and none 65532, which other products' images share. */}}
{{- define "vsecm.uids" -}}
safe: 61001
sentinel: 61002
nodeAgent: 61003
keeper: 61004
csi: 0
spireServer: 61010
spireControllerManager: 61011
{{- end }}

{{- define "vsecm.uid" -}}
{{- get (include "vsecm.uids" . | fromYaml) .uid -}}
{{- end }}

{{/* Namespace of what is privileged. */}}
{{- define "vsecm.nodeNamespace" -}}
{{- .Values.node.namespace | default .Release.Namespace -}}
{{- end }}

{{/* image: dict root, name */}}
{{- define "vsecm.image" -}}
{{- $image := .root.Values.image -}}
{{- $registry := required "image.registry must be set: the registry that `make push REGISTRY=...` pushed the images to, for example --set image.registry=registry.example.com/vsecm" $image.registry -}}
{{- with get $image.digests .name -}}
{{ $registry }}/{{ $.name }}@{{ . }}
{{- else -}}
{{ $registry }}/{{ .name }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* labels: dict root, name */}}
{{- define "vsecm.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: vsecm
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | replace "+" "_" | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "vsecm.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: vsecm
{{- end }}

{{/* metadata of a pod: dict root, name, workload (its values), annotations (optional) */}}
{{- define "vsecm.podMetadata" -}}
labels:
  {{- include "vsecm.labels" . | nindent 2 }}
annotations:
  {{- $default := dict "kubectl.kubernetes.io/default-container" (.container | default .name) }}
  {{- merge (dict) (.annotations | default dict) .workload.podAnnotations $default | toYaml | nindent 2 }}
{{- end }}

{{/* where a pod runs and how its images are pulled: dict root, workload, custody (true or false) */}}
{{- define "vsecm.placement" -}}
{{- $names := .workload.imagePullSecrets | default .root.Values.image.pullSecrets }}
{{- with $names }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .workload.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- $selector := .workload.nodeSelector }}
{{- if .custody }}{{ $selector = merge (dict) .root.Values.custody.nodeSelector $selector }}{{ end }}
{{- with $selector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .workload.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* never on the nodes of custody: there one label at least must differ */}}
{{- define "vsecm.outsideCustody" -}}
{{- with .Values.custody.nodeSelector }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        {{- range $key, $value := . }}
        - matchExpressions: [{key: {{ $key | quote }}, operator: NotIn, values: [{{ $value | quote }}]}]
        {{- end }}
{{- end }}
{{- end }}

{{/* environment variables from a map; a number by way of JSON, as a large one would be 1e+06 */}}
{{- define "vsecm.env" -}}
{{- range $name, $value := . }}
- {name: {{ $name | quote }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}}
{{- end }}
{{- end }}

{{/* what Pod Security `restricted` asks of a container: dict root, uid, gid (optional), spc (optional) */}}
{{- define "vsecm.restricted" -}}
runAsNonRoot: true
runAsUser: {{ include "vsecm.uid" . }}
runAsGroup: {{ .gid | default (include "vsecm.uid" .) }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- if and .spc .root.Values.openshift.enabled }}
seLinuxOptions: {type: spc_t}
{{- end }}
{{- end }}

{{- define "vsecm.safeId" -}}
^spiffe://{{ .Values.trustDomain }}/workload/vsecm-safe/ns/{{ .Release.Namespace }}/sa/vsecm-safe/n/[^/]+$
{{- end }}

{{/* trust domain, and who is safe: for all that speak to it or are it */}}
{{- define "vsecm.identityEnv" -}}
- {name: SPIFFE_ENDPOINT_SOCKET, value: "unix:///spire-agent-socket/{{ .Values.spire.workloadSocketName }}"}
- {name: SPIFFE_TRUST_DOMAIN, value: {{ .Values.trustDomain | quote }}}
- {name: VSECM_SPIFFEID_PREFIX_SAFE, value: {{ include "vsecm.safeId" . | quote }}}
{{- end }}

{{/* who sentinel is: for safe and for itself */}}
{{- define "vsecm.sentinelEnv" -}}
- {name: VSECM_SPIFFEID_PREFIX_SENTINEL, value: "^spiffe://{{ .Values.trustDomain }}/workload/vsecm-sentinel/ns/{{ .Release.Namespace }}/sa/vsecm-sentinel/n/[^/]+$"}
{{- end }}

{{/* who node-agent is, the same on every node: for safe */}}
{{- define "vsecm.nodeAgentIdEnv" -}}
- {name: VSECM_SPIFFEID_PREFIX_NODE_AGENT, value: "^spiffe://{{ .Values.trustDomain }}/vsecm-node-agent$"}
{{- end }}

{{/* who is a workload, and what it is called */}}
{{- define "vsecm.workloadEnv" -}}
- {name: VSECM_SPIFFEID_PREFIX_WORKLOAD, value: "^spiffe://{{ .Values.trustDomain }}/workload/[^/]+/ns/[^/]+/sa/[^/]+/n/[^/]+$"}
- {name: VSECM_WORKLOAD_NAME_REGEXP, value: "^spiffe://{{ .Values.trustDomain }}/workload/([^/]+)/ns/[^/]+/sa/[^/]+/n/[^/]+$"}
{{- end }}

{{- define "vsecm.safeAddressEnv" -}}
- {name: VSECM_SAFE_ENDPOINT_URL, value: "https://vsecm-safe.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:8443/"}
{{- end }}

{{- define "vsecm.probePortsEnv" -}}
- {name: VSECM_PROBE_LIVENESS_PORT, value: ":8081"}
- {name: VSECM_PROBE_READINESS_PORT, value: ":8082"}
{{- end }}

{{- define "vsecm.httpProbes" -}}
livenessProbe: {httpGet: {path: /, port: liveness}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
readinessProbe: {httpGet: {path: /, port: readiness}, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 2}
{{- end }}

{{/* Go collects more eagerly as it nears its limit, instead of being killed there. */}}
{{- define "vsecm.goMemoryEnv" -}}
- {name: GOMEMLIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
{{- end }}

{{/* Folders are mounted, never socket files: SPIRE makes its sockets anew. */}}
{{- define "vsecm.workloadSocketVolume" -}}
- name: spire-agent-socket
  {{- if eq .Values.spire.workloadSocket "csi" }}
  csi: {driver: csi.spiffe.io, readOnly: true}
  {{- else }}
  hostPath: {path: {{ .Values.spire.workloadSocketDir | quote }}, type: DirectoryOrCreate}
  {{- end }}
{{- end }}

{{/* Token of the API server for one container alone; automount would give it to all of the pod. */}}
{{- define "vsecm.apiTokenVolume" -}}
- name: api-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}

{{- define "vsecm.apiTokenMount" -}}
- {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{/* a volume claim: dict data (values), name, root */}}
{{- define "vsecm.claim" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata: {name: {{ .name }}}
  spec:
    accessModes: [{{ .data.accessMode }}]
    {{- with .data.storageClass }}
    storageClassName: {{ . | quote }}
    {{- end }}
    resources: {requests: {storage: {{ .data.size | quote }}}}
{{- end }}

{{/* a service account without a token of its own: dict root, name, namespace */}}
{{- define "vsecm.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ .namespace | default .root.Release.Namespace | quote }}
  labels:
    {{- include "vsecm.labels" . | nindent 4 }}
automountServiceAccountToken: false
{{- end }}
