{{- define "wisp.labels" -}}
app.kubernetes.io/name: wisp
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "wisp.selector" -}}
app.kubernetes.io/name: wisp
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "wisp.image" -}}
{{ .root.Values.image.registry }}/wisp-{{ .component }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "wisp.urlTemplate" -}}
{{- if .Values.urlTemplate -}}
{{ .Values.urlTemplate }}
{{- else if .Values.domains -}}
{{- $tls := or .Values.gateway.tls.secretName (and .Values.ingress.enabled .Values.ingress.tls) -}}
{{ ternary "https" "http" (not (empty $tls)) }}://{name}.{namespace}.{{ first .Values.domains }}/
{{- end -}}
{{- end }}

{{- /* Hosts by which the gateways are reached for every function, separated by commas. */ -}}
{{- define "wisp.reservedHosts" -}}
{{- $hosts := .Values.reservedHosts -}}
{{- if not $hosts -}}
{{- $hosts = .Values.domains | default list -}}
{{- $ways := list -}}
{{- if .Values.ingress.enabled }}{{ $ways = concat $ways (.Values.ingress.hosts | default list) }}{{ end -}}
{{- if .Values.httpRoute.enabled }}{{ $ways = concat $ways (.Values.httpRoute.hostnames | default list) }}{{ end -}}
{{- range $host := $ways -}}
{{- $isFunctions := false -}}
{{- range $.Values.domains -}}
{{- if regexMatch (printf `^[^.]+\.[^.]+\.%s$` (regexQuoteMeta .)) $host }}{{ $isFunctions = true }}{{ end -}}
{{- end -}}
{{- if not $isFunctions }}{{ $hosts = append $hosts $host }}{{ end -}}
{{- end -}}
{{- end -}}
{{- $hosts = append $hosts (regexReplaceAll `^https?://([^/:?#]*).*$` (.Values.urlTemplate | default "") `${1}` | lower | trimSuffix ".") -}}
{{- /* Neither wildcards nor templates. */ -}}
{{- $names := list -}}
{{- range $hosts -}}
{{- if regexMatch `^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$` . }}{{ $names = append $names . }}{{ end -}}
{{- end -}}
{{- uniq $names | join "," -}}
{{- end }}

{{- /* What a size such as 10Gi is in bytes. */ -}}
{{- define "wisp.bytes" -}}
{{- $units := dict "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mul (regexFind "^[0-9]+" .) (get $units (regexFind "[kKMGTi]+$" .)) -}}
{{- end }}

{{- /* How large the volume of the operator's store is: what is kept and the headroom, in whole MiB, rounded up. */ -}}
{{- define "wisp.storeVolume" -}}
{{- with .Values.operator.store -}}
{{ div (add (include "wisp.bytes" .size) (include "wisp.bytes" .headroom) 1048575) 1048576 }}Mi
{{- end -}}
{{- end }}

{{- /* What the restricted Pod Security standard asks of a pod, and of its container. */ -}}
{{- define "wisp.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "wisp.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Pods of a component go to different nodes, where there are some, unless somebody says otherwise. */ -}}
{{- define "wisp.spread" -}}
{{- with .values.topologySpreadConstraints -}}
topologySpreadConstraints: {{- toYaml . | nindent 0 }}
{{- else -}}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "wisp.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "wisp.scheduling" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- if .root.Values.priorityClass.create }}
priorityClassName: {{ .root.Release.Name }}-system
{{- else if .root.Values.priorityClass.name }}
priorityClassName: {{ .root.Values.priorityClass.name | quote }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The signature policy, and the keys that it has from Secrets and ConfigMaps, by their places in it. */ -}}
{{- define "wisp.signatures" -}}
{{- with .Values.signatures }}
{{- if or .rules (eq .default "deny") }}
- {name: WISP_SIGNATURES, value: {{ toJson . | quote }}}
{{- end }}
{{- range $rule, $it := .rules }}
{{- range $place, $authority := $it.authorities }}
{{- range $kind := list "secret" "configMap" }}
{{- with dig "key" (printf "%sRef" $kind) nil $authority }}
- {name: WISP_SIGNATURE_KEY_{{ $rule }}_{{ $place }}, valueFrom: { {{- $kind }}KeyRef: {name: {{ .name | quote }}, key: {{ .key | default "cosign.pub" | quote }}}}}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
